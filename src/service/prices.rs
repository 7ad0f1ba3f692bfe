//! The rpcs of prices: the quote of a call, and the versions that operators write.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, SubsecRound, Utc};
use tokio::time::{Instant, timeout_at};

use super::{
    convert::{count, estimate, price_line, service_tier, tokens, usage},
    day_quote::DayQuote,
    price_reads::PriceReads,
    proto::{
        self, DeletePriceVersionReply, DeletePriceVersionRequest, ListPriceVersionsReply, ListPriceVersionsRequest,
        PriceTier, PutPriceVersionReply, PutPriceVersionRequest, QuotePriceReply, QuotePriceRequest,
    },
    reports::paging::Page,
    timestamp::instant,
};
use crate::biz::{
    account::catalog::Catalog,
    audit_trail::{AuditedCall, DELETE_PRICE_VERSION, Intent, PUT_PRICE_VERSION},
    charge::{
        prices::{
            Alias, Class, Draft, Factor, Given, NewVersion, PriceBook, PriceStore, PriceVersion, Rates, VersionKey,
            VersionStore, blocking,
        },
        quote::{Ask, ESTIMATE, Quoter},
    },
    reports::usage::UseStore,
    settlement::accounts::Accounts,
    values::{
        calendar::Calendar,
        class::ByClass,
        error::{Error, Result},
        ids::{ModelName, PlanName, PriceVersionId, ServiceTier, UserId},
        invalid::Invalid,
        money::Money,
    },
};

/// Longest page token: that of the longest model.
pub(super) const MAX_TOKEN: usize = 256;

/// Quotes calls, and writes and lists price versions.
pub struct PriceService {
    catalog: Arc<Catalog>,
    quoter: Arc<Quoter>,
    accounts: Arc<Accounts>,
    versions: Arc<dyn VersionStore>,
    uses: Arc<dyn UseStore>,
    reads: PriceReads,
    calendar: Arc<Calendar>,
}

impl PriceService {
    pub fn new(
        catalog: Arc<Catalog>,
        quoter: Arc<Quoter>,
        accounts: Arc<Accounts>,
        versions: Arc<dyn VersionStore>,
        rows: Arc<dyn PriceStore>,
        (uses, calendar): (Arc<dyn UseStore>, Arc<Calendar>),
    ) -> Self {
        let reads = PriceReads::new(quoter.clone(), rows);
        Self { catalog, quoter, accounts, versions, uses, reads, calendar }
    }

    pub async fn quote_price(&self, request: QuotePriceRequest) -> Result<QuotePriceReply> {
        let plan = match UserId::parse_optional("user_id", &request.user_id)? {
            Some(user) => self.accounts.peek(&user).await?.0.balance.plan,
            None => None,
        };
        let (service, _) = self.catalog.find(&request.service_name)?;
        let terms = self.catalog.service_in(plan, service);
        let terms = terms.ok_or_else(|| Error::UnknownService(request.service_name.clone()))?;
        let model = ModelName::parse_optional("model", &request.model)?;
        let service_tier = service_tier(&request.service_tier)?;
        let estimate = estimate(request.estimated_input_tokens, request.estimated_output_tokens)?;
        let (usage, tokens_field) = match usage(request.usage)? {
            Some(_) if estimate.is_some() => {
                return Err(Invalid::new(ESTIMATE, "must be absent beside usage").into());
            }
            Some(usage) => (Some(usage), "usage"),
            None => (estimate, ESTIMATE),
        };
        let count = if request.count == 0 { 1 } else { count(request.count)? };
        let (model, service_tier) = (model.as_ref(), service_tier.as_ref());
        let ask = Ask { plan, count, cost: None, model, service_tier, usage, tokens_field };
        let explained = self.quoter.tariff().explain(terms, ask)?;
        Ok(QuotePriceReply {
            amount: explained.quote.cost.to_wire(),
            lines: explained.lines.into_iter().map(price_line).collect(),
            plan: plan_name(explained.quote.plan),
            tier: explained.above_input_tokens.map_or(0, super::convert::int32),
            version: explained.quote.version.map(|version| version.id.to_string()).unwrap_or_default(),
            service_tier: service_tier.map(ServiceTier::to_string).unwrap_or_default(),
            model: explained.model.map(|model| model.to_string()).unwrap_or_default(),
        })
    }

    pub async fn put_price_version(
        &self,
        request: PutPriceVersionRequest,
        intent: impl Into<Intent>,
    ) -> Result<PutPriceVersionReply> {
        let now = self.calendar.now().utc.trunc_subsecs(6);
        let version = new_version(&request, now)?;
        let call = AuditedCall::new(PUT_PRICE_VERSION, intent, "");
        let changed = self.versions.put_price_version(&version, &call, now).await??;
        self.reads.soon(now).await;
        let NewVersion { model, effective_from, id, prices, .. } = version;
        let book = self.quoter.prices().book();
        let known = |(from, version): (_, &std::result::Result<PriceVersion, Invalid>)| {
            version.as_ref().is_ok_and(|version| version.id == id).then_some(from)
        };
        // A repeat without an instant finds that of the first one, if the book has it already.
        let since = if changed { Some(effective_from) } else { book.versions_of(&model).find_map(known) };
        let last = book.last_before(&model, now);
        let in_force = since.is_some_and(|since| since <= now && last.is_none_or(|last| last <= since));
        let shown = shown(&model, effective_from, &Ok(PriceVersion::new(id, prices)));
        let stored = proto::PriceVersion { effective_from: since.map(Into::into), in_force, ..shown };
        Ok(PutPriceVersionReply { success: true, changed, version: Some(stored) })
    }

    /// The cost of the calls of yesterday that a new version would price, or that it would no longer price: at the base
    /// prices in force, and at those with the new version in force. `None` if it can't be read within `patience`. Changes
    /// nothing.
    ///
    /// # Errors
    /// The errors of [`Self::put_price_version`] for the version, and those of a read.
    pub async fn quote_of_yesterday(
        &self,
        request: &PutPriceVersionRequest,
        patience: Duration,
    ) -> Result<Option<DayQuote>> {
        let until = Instant::now() + patience;
        let Ok(quoted) = timeout_at(until, self.quote_of_day(request)).await else { return Ok(None) };
        let (mut quote, names) = quoted?;
        if quote.is_cut {
            // The cost is worth showing without this number, too.
            let counting = self.uses.entries_of_models(&names, quote.day, DayQuote::MOST_COUNTED);
            quote.entries = timeout_at(until, counting).await.ok().and_then(std::result::Result::ok);
        }
        Ok(Some(quote))
    }

    /// The quote without the number of all entries, and the names of its calls.
    async fn quote_of_day(&self, request: &PutPriceVersionRequest) -> Result<(DayQuote, Vec<ModelName>)> {
        let now = self.calendar.now();
        let NewVersion { model, id, prices, .. } = new_version(request, now.utc)?;
        let day = now.day.pred_opt().unwrap_or(now.day);
        let listed = self.uses.models_of(day, MAX_QUOTED_NAMES).await?;
        let present = self.quoter.prices().book();
        let in_force = present.at(&model, now.utc).ok();
        let has_more_names = listed.len() >= MAX_QUOTED_NAMES as usize;
        // The names that the versions tell come first, whichever names the calls have.
        let aliases = in_force.iter().flat_map(|found| found.version.prices.aliases()).chain(prices.aliases());
        let exact = aliases.filter(|alias| !alias.is_glob()).map(|alias| ModelName::from_stored(alias.as_str()));
        let mut names: Vec<_> = [model.clone()].into_iter().chain(exact).chain(listed).collect();
        let mut quote = DayQuote::of(day, in_force.is_some());
        let next = {
            let (present, model) = (present.clone(), model.clone());
            // A book may have a hundred thousand versions.
            blocking(move || {
                let mut next = PriceBook::clone(&present);
                next.set(model, now.utc, Ok(PriceVersion::new(id, prices)));
                next
            })
            .await?
        };
        let found = |name: &ModelName| [&*present, &next].map(|book| book.at(name, now.utc).ok());
        let mut known = HashSet::new();
        names.retain(|name| {
            let means_it = found(name).into_iter().flatten().any(|found| *found.model == model);
            means_it && known.insert(name.clone())
        });
        quote.is_cut = has_more_names || names.len() > MAX_QUOTED_NAMES as usize;
        names.truncate(MAX_QUOTED_NAMES as usize);
        let (mut own, mut others) = (0, 0);
        for of_name in self.uses.use_of_models(&names, day, MAX_QUOTED_ENTRIES).await? {
            quote.add(&of_name, found(&of_name.model).map(|found| found.map(|found| &*found.version.prices)));
            if of_name.model == model {
                own += of_name.entries;
            } else {
                others += of_name.entries;
                quote.aliases.push(of_name.model);
            }
        }
        quote.is_cut |= own.max(others) >= MAX_QUOTED_ENTRIES.into();
        Ok((quote, names))
    }

    pub async fn delete_price_version(
        &self,
        request: DeletePriceVersionRequest,
        intent: impl Into<Intent>,
    ) -> Result<DeletePriceVersionReply> {
        let key = VersionKey {
            model: ModelName::parse("model", &request.model)?,
            id: PriceVersionId::parse("version_id", &request.version_id)?,
        };
        let call = AuditedCall::new(DELETE_PRICE_VERSION, intent, "");
        let now = self.calendar.now().utc;
        let changed = self.versions.delete_price_version(&key, &call, now).await??;
        self.reads.soon(now).await;
        Ok(DeletePriceVersionReply { success: true, changed })
    }

    pub async fn list_price_versions(&self, request: ListPriceVersionsRequest) -> Result<ListPriceVersionsReply> {
        let page = Page::parse(0, request.page_size, "")?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => {
                Some(decode(token).ok_or_else(|| Invalid::new("page_token", "is not a next_page_token of this list"))?)
            }
        };
        let model = ModelName::parse_optional("model", &request.model)?;
        let now = self.calendar.now().utc;
        self.reads.now(now).await?;
        let book = self.quoter.prices().book();
        let listed = book.versions_after(model.as_ref(), after.as_ref());
        // The additional version shows whether another page follows.
        let size = page.size as usize;
        let versions: Vec<_> = listed.take(size + 1).collect();
        let next = versions.get(size - 1).filter(|_| versions.len() > size);
        let next_page_token = next.map(|(name, from, _)| encode(name, *from)).unwrap_or_default();
        let versions = versions.iter().take(size);
        let versions = versions.map(|(model, from, version)| {
            let in_force = book.last_before(model, now) == Some(*from);
            proto::PriceVersion { in_force, ..shown(model, *from, version) }
        });
        Ok(ListPriceVersionsReply { versions: versions.collect(), next_page_token })
    }
}

/// Most entries of the use of a day that one quote sums: of the model's own name, and again of all its aliases. A preview
/// must come within 100 ms.
const MAX_QUOTED_ENTRIES: u32 = 2_000;
/// Most names of models of a day that one quote looks at.
const MAX_QUOTED_NAMES: u32 = 500;

/// The end of a page of versions as a token, which is opaque to callers.
fn encode(model: &ModelName, from: DateTime<Utc>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{}.{model}", from.timestamp_micros()))
}

fn decode(token: &str) -> Option<(ModelName, DateTime<Utc>)> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let decoded = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (micros, model) = decoded.split_once('.')?;
    Some((ModelName::from_stored(model), DateTime::from_timestamp_micros(micros.parse().ok()?)?))
}

/// The name of a plan on the wire.
pub(super) fn plan_name(plan: Option<PlanName>) -> String {
    plan.map_or_else(|| PlanName::DEFAULT.to_owned(), |plan| plan.to_string())
}

fn new_version(request: &PutPriceVersionRequest, now: DateTime<Utc>) -> Result<NewVersion> {
    let effective_from = match request.effective_from {
        Some(from) => instant("effective_from", from)?.trunc_subsecs(6),
        None => now,
    };
    let model = ModelName::parse("model", &request.model)?;
    let id = PriceVersionId::parse_optional("version_id", &request.version_id)?;
    let service_tiers = request.service_tiers.iter().map(|(name, factor)| {
        let factor = Factor::from_wire("service_tiers", *factor)?;
        Ok((ServiceTier::parse("service_tiers", name)?, factor))
    });
    let given = given([
        request.input,
        request.cached_input,
        request.cache_write,
        request.cache_write_1h,
        request.audio_input,
        request.output,
        request.reasoning,
        request.audio_output,
        request.request,
        request.image,
    ])?;
    let draft = Draft {
        given,
        tiers: request.tiers.iter().map(tier).collect::<Result<_>>()?,
        service_tiers: service_tiers.collect::<Result<_>>()?,
        aliases: request.aliases.iter().map(|alias| Alias::parse(alias)).collect::<std::result::Result<_, _>>()?,
        max_tokens: request.max_tokens.map(|most| tokens("max_tokens", most)).transpose()?,
    };
    // A repeat with the same instant is the same version.
    let made = || PriceVersionId::from_stored(format!("put:{}", effective_from.timestamp_micros()));
    let is_at_once = request.effective_from.is_none();
    Ok(NewVersion { model, effective_from, is_at_once, id: id.unwrap_or_else(made), prices: draft.check()? })
}

fn tier(tier: &PriceTier) -> Result<(u32, Given)> {
    let above = u32::try_from(tier.above_input_tokens)
        .map_err(|_| Invalid::new("tiers.above_input_tokens", "must be above 0"))?;
    Ok((above, given(prices_of_tier(tier))?))
}

/// The prices of a tier, by class.
pub fn prices_of_tier(tier: &PriceTier) -> ByClass<Option<f64>> {
    [
        tier.input,
        tier.cached_input,
        tier.cache_write,
        tier.cache_write_1h,
        tier.audio_input,
        tier.output,
        tier.reasoning,
        tier.audio_output,
        tier.request,
        tier.image,
    ]
}

fn given(prices: ByClass<Option<f64>>) -> Result<Given> {
    let mut given = Given::default();
    for (class, price) in Class::ALL.into_iter().zip(prices) {
        given[class as usize] = price.map(|price| Money::from_wire(class.name(), price)).transpose()?;
    }
    Ok(given)
}

fn shown(
    model: &ModelName,
    effective_from: DateTime<Utc>,
    version: &std::result::Result<PriceVersion, Invalid>,
) -> proto::PriceVersion {
    let shown = proto::PriceVersion {
        model: model.to_string(),
        effective_from: Some(effective_from.into()),
        ..Default::default()
    };
    let version = match version {
        Ok(version) => version,
        Err(defect) => return proto::PriceVersion { defect: defect.to_string(), ..shown },
    };
    let price = |class: Class| version.prices.base().given(class).map(Money::to_wire);
    proto::PriceVersion {
        version_id: version.id.to_string(),
        input: price(Class::Input),
        cached_input: price(Class::CachedInput),
        cache_write: price(Class::CacheWrite),
        cache_write_1h: price(Class::CacheWrite1h),
        audio_input: price(Class::AudioInput),
        output: price(Class::Output),
        reasoning: price(Class::Reasoning),
        audio_output: price(Class::AudioOutput),
        request: price(Class::Request),
        image: price(Class::Image),
        tiers: version.prices.tiers().iter().map(|tier| shown_tier(tier.above_input_tokens, &tier.rates)).collect(),
        service_tiers: version
            .prices
            .service_tiers()
            .iter()
            .map(|(name, factor)| (name.to_string(), factor.to_wire()))
            .collect::<HashMap<_, _>>(),
        aliases: version.prices.aliases().iter().map(Alias::to_string).collect(),
        max_tokens: version.prices.max_tokens().map(super::convert::int32),
        ..shown
    }
}

fn shown_tier(above_input_tokens: u32, rates: &Rates) -> PriceTier {
    let price = |class: Class| rates.given(class).map(Money::to_wire);
    PriceTier {
        above_input_tokens: super::convert::int32(above_input_tokens),
        input: price(Class::Input),
        cached_input: price(Class::CachedInput),
        cache_write: price(Class::CacheWrite),
        cache_write_1h: price(Class::CacheWrite1h),
        audio_input: price(Class::AudioInput),
        output: price(Class::Output),
        reasoning: price(Class::Reasoning),
        audio_output: price(Class::AudioOutput),
        request: price(Class::Request),
        image: price(Class::Image),
    }
}
