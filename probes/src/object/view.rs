//! Objects, and definitions of types.

use super::Object;
use crate::Listing;
use crate::kernel::btf::Declaration;
use crate::view::{View, clean, escape};

/// Objects of one list, in its order.
pub type Objects = Listing<Object>;

impl View for Objects {
    fn text(&self) -> String {
        let lines = self.iter().map(|object| match object.address() {
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
}

impl View for Declaration {
    fn text(&self) -> String {
        self.to_string()
    }

    fn html(&self) -> Option<String> {
        code(&self.to_string())
    }
}

crate::displays!(Object, Objects, Declaration);
