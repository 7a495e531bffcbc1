//! Where in the text something stands: offsets to lines and keys, keys to lines.

use alloc::{borrow::ToOwned, string::String};
use core::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{Config, ConfigError, Problem};

/// A configuration's text and what messages call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) file_name: String,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn error(&self, span: Range<usize>, key: &str, problem: Problem) -> ConfigError {
        let before = self.text.get(..span.start).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ConfigError {
            file: self.file_name.clone(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).map_or(0, |line| line.chars().count()) + 1,
            key: key.to_owned(),
            problem,
        }
    }

    /// Where the value of a key of the VM with this number stands, or its section where it has no such key.
    fn vm_span(&self, vm: usize, key: &str) -> Option<Range<usize>> {
        let document = DeTable::parse(&self.text).ok()?;
        let vm = document.get_ref().get("vm")?.get_ref().as_array()?.get(vm)?;
        let value = vm.get_ref().as_table()?.get(key);
        Some(value.map_or_else(|| vm.span(), Spanned::span))
    }
}

impl Config {
    /// The message that `problem` is with `key` of the VM with this number, from 0: with file and line.
    #[must_use]
    pub fn wrong(&self, vm: usize, key: &str, problem: Problem) -> ConfigError {
        let span = self.source.vm_span(vm, key).unwrap_or(0..0);
        let path = ["vm.", key].concat();
        self.source.error(span, &path, problem)
    }

    /// What messages call the configuration.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.source.file_name
    }
}

/// The dotted path of the innermost key whose name or value covers the offset, and whether it is the name.
pub(crate) fn path_at(table: &DeTable<'_>, offset: usize) -> (String, bool) {
    let mut path = String::new();
    let is_key = extend_path(table, offset, &mut path);
    (path, is_key.unwrap_or(false))
}

fn extend_path(table: &DeTable<'_>, offset: usize, path: &mut String) -> Option<bool> {
    for (key, value) in table.iter() {
        let length = path.len();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key.get_ref());
        // Inner keys first: the span of a section is its header only, so what it holds lies outside.
        let inner = match value.get_ref() {
            DeValue::Table(inner) => extend_path(inner, offset, path),
            DeValue::Array(list) => list.iter().find_map(|item| {
                let within = item.get_ref().as_table().and_then(|t| extend_path(t, offset, path));
                within.or_else(|| item.span().contains(&offset).then_some(false))
            }),
            _ => None,
        };
        let here = || {
            let at_key = key.span().contains(&offset);
            (at_key || value.span().contains(&offset)).then_some(at_key)
        };
        if let Some(found) = inner.or_else(here) {
            return Some(found);
        }
        path.truncate(length);
    }
    None
}
