//! The fields of a check that a proxy names: by the keys of a descriptor of Envoy, or by headers.

use http::HeaderName;

use crate::{
    biz::values::{error::Result, invalid::Invalid},
    service::proto::CheckQuotaRequest,
};

/// One field.
pub struct Field {
    /// Its name in `CheckQuotaRequest`.
    pub name: &'static str,
    /// The key of a descriptor's entry.
    pub key: &'static str,
    pub header: HeaderName,
    set: fn(&mut CheckQuotaRequest, &str) -> Result<()>,
}

/// The start of the names of all headers.
pub const HEADER_PREFIX: &str = "x-billing-";

/// All fields. A check needs the first two.
pub static FIELDS: [Field; 8] = [
    Field {
        name: "user_id",
        key: "user_id",
        header: HeaderName::from_static("x-billing-user-id"),
        set: |check, text| set(&mut check.user_id, text),
    },
    Field {
        name: "service_name",
        key: "service",
        header: HeaderName::from_static("x-billing-service"),
        set: |check, text| set(&mut check.service_name, text),
    },
    Field {
        name: "api_key_id",
        key: "api_key",
        header: HeaderName::from_static("x-billing-api-key-id"),
        set: |check, text| set(&mut check.api_key_id, text),
    },
    Field {
        name: "count",
        key: "hits_addend",
        header: HeaderName::from_static("x-billing-count"),
        set: |check, text| set_number("count", &mut check.count, text),
    },
    Field {
        name: "model",
        key: "model",
        header: HeaderName::from_static("x-billing-model"),
        set: |check, text| set(&mut check.model, text),
    },
    Field {
        name: "service_tier",
        key: "service_tier",
        header: HeaderName::from_static("x-billing-service-tier"),
        set: |check, text| set(&mut check.service_tier, text),
    },
    Field {
        name: "estimated_input_tokens",
        key: "estimated_input_tokens",
        header: HeaderName::from_static("x-billing-estimated-input-tokens"),
        set: |check, text| set_number("estimated_input_tokens", &mut check.estimated_input_tokens, text),
    },
    Field {
        name: "estimated_output_tokens",
        key: "estimated_output_tokens",
        header: HeaderName::from_static("x-billing-estimated-output-tokens"),
        set: |check, text| set_number("estimated_output_tokens", &mut check.estimated_output_tokens, text),
    },
];

fn set(field: &mut String, text: &str) -> Result<()> {
    text.clone_into(field);
    Ok(())
}

fn set_number(name: &str, field: &mut i32, text: &str) -> Result<()> {
    *field = text.parse().map_err(|_| Invalid::new(name, "must be a whole number of 32 bits"))?;
    Ok(())
}

/// A check in the making. Each field comes once at most.
pub struct Named {
    pub check: CheckQuotaRequest,
    set: [bool; FIELDS.len()],
}

impl Named {
    /// A check of `count` units, unless a field names others.
    pub fn of(count: i32) -> Self {
        Self { check: CheckQuotaRequest { count, ..Default::default() }, set: [false; FIELDS.len()] }
    }

    /// Whether no field was named.
    pub fn is_empty(&self) -> bool {
        !self.set.contains(&true)
    }

    /// Sets the field that `is_it` finds. Returns whether there is one.
    ///
    /// # Errors
    /// [`crate::biz::values::error::Error::Invalid`]: the field comes twice, or is no number.
    pub fn set(&mut self, is_it: impl Fn(&Field) -> bool, text: &str) -> Result<bool> {
        let Some((field, seen)) = FIELDS.iter().zip(&mut self.set).find(|(field, _)| is_it(field)) else {
            return Ok(false);
        };
        if std::mem::replace(seen, true) {
            return Err(Invalid::new(field.name, "is given twice").into());
        }
        (field.set)(&mut self.check, text)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_has_a_header_with_the_prefix() {
        for field in &FIELDS {
            assert!(field.header.as_str().starts_with(HEADER_PREFIX), "{}", field.header);
        }
    }

    #[test]
    fn a_field_comes_once() {
        let mut named = Named::of(1);
        assert!(named.is_empty());
        assert!(named.set(|field| field.key == "user_id", "u").unwrap());
        assert!(named.set(|field| field.key == "service", "asset").unwrap());
        assert!(!named.set(|field| field.key == "userid", "u").unwrap());
        assert!(!named.is_empty());
        let twice = named.set(|field| field.key == "service", "asset").unwrap_err();
        assert_eq!(twice.to_string(), "service_name: is given twice");
        let text = named.set(|field| field.header == "x-billing-count", "1.5").unwrap_err();
        assert!(text.to_string().starts_with("count:"), "{text}");
        assert_eq!((named.check.user_id.as_str(), named.check.count), ("u", 1));
    }
}
