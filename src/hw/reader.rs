//! Reading TOML tables field by field, so that every error names its line and every unknown field is one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Code, HwError, did_you_mean};
use crate::profile::Extra;

/// Largest hardware file read, in bytes.
pub const MAX_FILE_BYTES: usize = 4 << 20;

/// Largest number accepted anywhere: beyond it a figure is a typing error, and sums could overflow.
const MAX_NUMBER: f64 = 1e18;

/// A file's name and text, to turn offsets into places.
pub(crate) struct Source<'s> {
    pub(crate) file: &'s str,
    pub(crate) text: &'s str,
}

impl<'s> Source<'s> {
    /// Parses the whole text; the caller then opens it with [`Table::root`].
    pub(crate) fn parse(&self) -> Result<Spanned<DeTable<'s>>, HwError> {
        if self.text.len() > MAX_FILE_BYTES {
            let message = format!("the file has {} bytes, the limit is {MAX_FILE_BYTES}", self.text.len());
            return Err(self.error(Code::Limit, 0, message, ""));
        }
        DeTable::parse(self.text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            self.error(Code::Syntax, offset, format!("this is not TOML: {}", error.message().trim()), "")
        })
    }

    pub(crate) fn error(
        &self,
        code: Code,
        offset: usize,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> HwError {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        HwError {
            code,
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
            hint: hint.into(),
        }
    }
}

/// A value with the offset it stands at.
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) offset: usize,
}

/// One table being read. Fields asked for are the fields allowed; [`Table::finish`] complains about the rest.
pub(crate) struct Table<'t> {
    pub(crate) source: &'t Source<'t>,
    pub(crate) what: String,
    pub(crate) offset: usize,
    fields: &'t DeTable<'t>,
    asked: BTreeSet<String>,
}

impl<'t> Table<'t> {
    /// Opens a parsed document.
    pub(crate) fn root(source: &'t Source<'t>, document: &'t Spanned<DeTable<'t>>) -> Self {
        Self::open(source, "this file", document.span(), document.get_ref())
    }

    fn open(source: &'t Source<'t>, what: &str, span: Range<usize>, fields: &'t DeTable<'t>) -> Self {
        Table { source, what: what.to_owned(), offset: span.start, fields, asked: BTreeSet::new() }
    }

    fn get(&mut self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.asked.insert(key.to_owned());
        let fields = self.fields;
        fields.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    pub(crate) fn error_at(&self, code: Code, offset: usize, message: String, hint: &str) -> HwError {
        self.source.error(code, offset, message, hint)
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> HwError {
        let got = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        let message = format!("`{key}` of {} must be {wanted}, not {got}", self.what);
        self.error_at(Code::WrongType, value.span().start, message, "")
    }

    /// The error for a field that must be there.
    pub(crate) fn missing(&self, key: &str) -> HwError {
        let message = format!("{} has no `{key}`", self.what);
        self.error_at(Code::MissingField, self.offset, message, &format!("add `{key} = ...`"))
    }

    /// A string, with its place.
    pub(crate) fn word_at(&mut self, key: &str) -> Result<Option<At<&'t str>>, HwError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.get_ref() {
                DeValue::String(word) => Ok(Some(At { value: word.as_ref(), offset: value.span().start })),
                _ => Err(self.wrong_type(key, value, "a string")),
            },
        }
    }

    /// A string that must be there, with its place.
    pub(crate) fn need_word_at(&mut self, key: &str) -> Result<At<&'t str>, HwError> {
        self.word_at(key)?.ok_or_else(|| self.missing(key))
    }

    /// A string.
    pub(crate) fn word(&mut self, key: &str) -> Result<Option<String>, HwError> {
        Ok(self.word_at(key)?.map(|at| at.value.to_owned()))
    }

    /// A string that must be there.
    pub(crate) fn need_word(&mut self, key: &str) -> Result<String, HwError> {
        Ok(self.need_word_at(key)?.value.to_owned())
    }

    /// A word that `parse` must know; `known` feeds the hint.
    pub(crate) fn choice<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Option<T>,
        known: &[&str],
    ) -> Result<Option<T>, HwError> {
        let Some(at) = self.word_at(key)? else { return Ok(None) };
        parse(at.value).map(Some).ok_or_else(|| {
            let message = format!("`{key}` of {} cannot be {:?}", self.what, at.value);
            self.error_at(Code::BadValue, at.offset, message, &format!("one of {}", known.join(", ")))
        })
    }

    /// The same for a word that must be there.
    pub(crate) fn need_choice<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Option<T>,
        known: &[&str],
    ) -> Result<T, HwError> {
        self.choice(key, parse, known)?.ok_or_else(|| self.missing(key))
    }

    /// A finite number above zero, integer or float.
    pub(crate) fn number(&mut self, key: &str) -> Result<Option<f64>, HwError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = number_of(value).ok_or_else(|| self.wrong_type(key, value, "a number"))?;
        if number > 0.0 && number <= MAX_NUMBER {
            return Ok(Some(number));
        }
        let message = format!("`{key}` of {} must be above 0 and at most {MAX_NUMBER:e}", self.what);
        Err(self.error_at(Code::BadValue, value.span().start, message, "leave an unknown figure out"))
    }

    /// A finite number of at least zero.
    pub(crate) fn number_or_zero(&mut self, key: &str) -> Result<Option<f64>, HwError> {
        match self.get(key).and_then(number_of) {
            Some(0.0) => Ok(Some(0.0)),
            _ => self.number(key),
        }
    }

    /// An integer of at least zero.
    pub(crate) fn count(&mut self, key: &str) -> Result<Option<u64>, HwError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let DeValue::Integer(integer) = value.get_ref() else {
            return Err(self.wrong_type(key, value, "an integer"));
        };
        let parsed = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        parsed.filter(|&count| count as f64 <= MAX_NUMBER).map(Some).ok_or_else(|| {
            let message = format!("`{key}` of {} must be at least 0 and at most {MAX_NUMBER:e}", self.what);
            self.error_at(Code::BadValue, value.span().start, message, "")
        })
    }

    /// An integer that fits 32 bits.
    pub(crate) fn small_count(&mut self, key: &str) -> Result<Option<u32>, HwError> {
        let Some(count) = self.count(key)? else { return Ok(None) };
        u32::try_from(count).map(Some).map_err(|_| {
            let offset = self.get(key).map_or(self.offset, |value| value.span().start);
            let message = format!("`{key}` of {} must be below 4294967296", self.what);
            self.error_at(Code::BadValue, offset, message, "")
        })
    }

    /// A boolean.
    pub(crate) fn flag(&mut self, key: &str) -> Result<Option<bool>, HwError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.get_ref() {
                DeValue::Boolean(flag) => Ok(Some(*flag)),
                _ => Err(self.wrong_type(key, value, "true or false")),
            },
        }
    }

    /// An array of strings; empty when absent.
    pub(crate) fn words(&mut self, key: &str) -> Result<Vec<String>, HwError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.wrong_type(key, value, "an array of strings"));
        };
        let word = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
            DeValue::String(word) => Ok(word.to_string()),
            _ => Err(self.wrong_type(key, item, "an array of strings")),
        };
        items.iter().map(word).collect()
    }

    /// A table inside this one.
    pub(crate) fn table(&mut self, key: &str) -> Result<Option<Table<'t>>, HwError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let DeValue::Table(fields) = value.get_ref() else {
            return Err(self.wrong_type(key, value, "a table"));
        };
        let what = format!("`{key}` of {}", self.what);
        Ok(Some(Table::open(self.source, &what, value.span(), fields)))
    }

    /// An array of tables; empty when absent.
    pub(crate) fn tables(&mut self, key: &str) -> Result<Vec<Table<'t>>, HwError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.wrong_type(key, value, "an array of tables"));
        };
        let open = |(index, item): (usize, &'t Spanned<DeValue<'t>>)| match item.get_ref() {
            DeValue::Table(fields) => {
                Ok(Table::open(self.source, &format!("{key} {}", index + 1), item.span(), fields))
            }
            _ => Err(self.wrong_type(key, item, "an array of tables")),
        };
        items.iter().enumerate().map(open).collect()
    }

    /// Every string field of this table with its place, for tables whose keys the format does not fix.
    pub(crate) fn all_words(mut self) -> Result<BTreeMap<String, At<String>>, HwError> {
        let mut words = BTreeMap::new();
        for (key, value) in self.fields.iter() {
            let word = self.need_word(key.get_ref())?;
            words.insert(key.get_ref().to_string(), At { value: word, offset: value.span().start });
        }
        Ok(words)
    }

    /// Every number field of this table with its place, for tables whose keys the format does not fix.
    pub(crate) fn all_numbers(mut self) -> Result<Vec<(String, At<f64>)>, HwError> {
        let mut numbers = Vec::new();
        for (key, _) in self.fields.iter() {
            if let Some(number) = self.number(key.get_ref())? {
                numbers.push((key.get_ref().to_string(), At { value: number, offset: key.span().start }));
            }
        }
        Ok(numbers)
    }

    /// Numbers and words of a table whose keys the format does not fix.
    pub(crate) fn extra(mut self) -> Result<Extra, HwError> {
        let mut extra = Extra::default();
        for (key, value) in self.fields.iter() {
            let key = key.get_ref().to_string();
            match value.get_ref() {
                DeValue::String(word) => drop(extra.words.insert(key, word.to_string())),
                DeValue::Boolean(flag) => drop(extra.words.insert(key, flag.to_string())),
                _ => {
                    if let Some(number) = self.number(&key)? {
                        extra.numbers.insert(key, number);
                    }
                }
            }
        }
        Ok(extra)
    }

    /// Complains about the first field nobody asked for.
    pub(crate) fn finish(self) -> Result<(), HwError> {
        let unknown = self.fields.iter().map(|(key, _)| key);
        let first = unknown.filter(|key| !self.asked.contains(key.get_ref().as_ref()));
        let Some(key) = first.min_by_key(|key| key.span().start) else { return Ok(()) };
        let known: Vec<&str> = self.asked.iter().map(String::as_str).collect();
        let hint = did_you_mean(
            key.get_ref(),
            known.iter().copied(),
            &format!("the fields are {}", known.join(", ")),
        );
        let message = format!("{} has no field `{}`", self.what, key.get_ref());
        Err(self.error_at(Code::UnknownField, key.span().start, message, &hint))
    }

    /// Reads `schema = N` and refuses any other number.
    pub(crate) fn schema(&mut self, version: u64) -> Result<(), HwError> {
        let found = self.count("schema")?.ok_or_else(|| self.missing("schema"))?;
        if found == version {
            return Ok(());
        }
        let offset = self.get("schema").map_or(0, |value| value.span().start);
        let message = format!("schema {found} is not one this program reads");
        Err(self.error_at(Code::Schema, offset, message, &format!("this program reads schema {version}")))
    }
}

fn number_of(value: &Spanned<DeValue<'_>>) -> Option<f64> {
    match value.get_ref() {
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|integer| integer as f64)
        }
        DeValue::Float(float) => float.as_str().parse().ok(),
        _ => None,
    }
}
