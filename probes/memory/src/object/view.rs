//! Objects, definitions of types, symbols.

use super::{NamedSymbol, NamedSymbols, Object};
use crate::kernel::btf::Declaration;
use crate::kernel::place;
use crate::view::{ListView, View, clean, escape};
use crate::{Listing, Missing};

/// Objects of one list, in its order.
pub type Objects = Listing<Object>;

impl ListView for Object {
    fn text(objects: &Objects) -> String {
        let lines = objects.iter().map(|object| match object.address() {
            Some(at) => format!("({} *){at}", object.type_name()),
            None => object.type_name(),
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn code(text: &str) -> Option<String> {
    Some(format!(
        "<pre style=\"line-height:1.3;margin:0\">{}</pre>",
        text.lines().map(escape).collect::<Vec<_>>().join("\n")
    ))
}

impl View for Object {
    fn text(&self) -> String {
        let text = self.to_string();
        text.lines().map(clean).collect::<Vec<_>>().join("\n")
    }

    fn html(&self) -> Option<String> {
        code(&self.to_string())
    }

    fn missing(&self) -> Vec<Missing> {
        let fault = self.to_value().err();
        let missing = fault.map(|fault| Missing::new(self.type_name(), &fault));
        missing.into_iter().collect()
    }
}

impl View for Declaration {
    fn text(&self) -> String {
        self.to_string()
    }

    fn html(&self) -> Option<String> {
        code(&self.to_string())
    }
}

fn line(symbol: &NamedSymbol) -> String {
    let at = place(&symbol.name, symbol.offset, symbol.module.as_deref());
    let ty = symbol.c_type.as_ref().map(|ty| format!(": {ty}"));
    let choice = symbol.spelling.as_ref().map(|text| format!("  ({text})"));
    let (ty, choice) = (ty.unwrap_or_default(), choice.unwrap_or_default());
    format!("{} {at}{ty}{choice}", symbol.at)
}

impl ListView for NamedSymbol {
    fn text(symbols: &NamedSymbols) -> String {
        let lines = symbols.iter().map(line);
        lines.map(|line| clean(&line) + "\n").collect()
    }

    fn html(symbols: &NamedSymbols) -> Option<String> {
        let lines = symbols.iter().map(line);
        let lines: String = lines.map(|line| escape(&line) + "\n").collect();
        Some(format!(
            "<pre style=\"line-height:1.3;margin:0\">{lines}</pre>"
        ))
    }
}

crate::displays!(Object, Declaration);
