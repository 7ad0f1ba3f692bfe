//! The fields of a message that do not come from its body alone: variables of the path, the account of a
//! front end's request, and an id in the headers.

use crate::{
    biz::values::{
        error::{Error, Result},
        invalid::Invalid,
    },
    service::origin::Account,
};

/// A further source of a text field of the message itself.
#[derive(Debug)]
pub enum Source {
    /// A variable of the path. The body may repeat it.
    Path(String),
    /// The account of the user. The body may name it.
    Account(Account),
    /// The id in the headers, if the body has none.
    Header(std::result::Result<Option<String>, Error>),
}

impl Source {
    fn apply(&self, field: &str, own: Option<String>) -> Result<Option<String>> {
        match self {
            Self::Path(value) => match own {
                Some(own) if own != *value => Err(Invalid::new(field, "is given twice with different values").into()),
                _ => Ok(Some(value.clone())),
            },
            Self::Account(account) => Ok(Some(account.user(own.as_deref())?.to_owned())),
            Self::Header(id) => match own.filter(|own| !own.is_empty()) {
                Some(own) => Ok(Some(own)),
                None => id.clone(),
            },
        }
    }
}

/// The sources of each such field, in the order in which they apply.
#[derive(Debug, Default)]
pub struct Fills(Vec<Fill>);

#[derive(Debug)]
struct Fill {
    field: String,
    sources: Vec<Source>,
    /// The value in the message; `None` before it was read, and for a field without any.
    value: Option<String>,
    is_done: bool,
}

impl Fills {
    pub fn add(&mut self, field: &str, source: Source) {
        match self.0.iter_mut().find(|fill| fill.field == field) {
            Some(fill) => fill.sources.push(source),
            None => {
                self.0.push(Fill { field: field.to_owned(), sources: vec![source], value: None, is_done: false });
            }
        }
    }

    /// The value of a field that the message has after it was read.
    pub fn value(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|fill| fill.field == field)?.value.as_deref()
    }

    pub(super) fn contains(&self, field: &str) -> bool {
        self.0.iter().any(|fill| fill.field == field)
    }

    /// The value of a field for which the body has `own`.
    ///
    /// # Errors
    /// Those of the sources.
    pub(super) fn apply(&mut self, field: &str, own: Option<String>) -> Result<Option<String>> {
        match self.0.iter_mut().find(|fill| fill.field == field) {
            Some(fill) => fill.apply(own),
            None => Ok(own),
        }
    }

    /// The next field that the body lacks and a source has, with its value.
    ///
    /// # Errors
    /// Those of the sources.
    pub(super) fn next(&mut self) -> Result<Option<(String, String)>> {
        for fill in self.0.iter_mut().filter(|fill| !fill.is_done) {
            if let Some(value) = fill.apply(None)? {
                return Ok(Some((fill.field.clone(), value)));
            }
        }
        Ok(None)
    }
}

impl Fill {
    fn apply(&mut self, own: Option<String>) -> Result<Option<String>> {
        self.is_done = true;
        self.value = self.sources.iter().try_fold(own, |own, source| source.apply(&self.field, own))?;
        Ok(self.value.clone())
    }
}
