//! The variables that live from cell to cell, and what `?` makes of an error.
//!
//! evcxr writes both into each cell's crate (`evcxr_internal_runtime.rs` of evcxr 0.22). klab's kernel has cells use these
//! instead: they are compiled once. What is called for each type is as small as it can be.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use super::front::{self, Event};
use super::keep;

/// Tells evcxr that a variable is of another type now.
const VARIABLE_CHANGED_TYPE: &str = "EVCXR_VARIABLE_CHANGED_TYPE:";
/// Tells evcxr that a `?` has ended the cell.
const USER_ERROR_OCCURRED: &str = "EVCXR_ERROR_OCCURRED";

/// The variables, by name.
#[derive(Debug, Default)]
pub struct VariableStore(HashMap<String, Box<dyn Any>>);

impl VariableStore {
    /// Keeps `value` as `name`.
    pub fn put_variable<T: 'static>(&mut self, name: &str, value: T) {
        self.put(name, Box::new(value));
    }

    /// Returns whether `name` is a `T`, or is not there; says else that it is lost. Each cell asks this of its variables
    /// before it runs; `false` ends it.
    pub fn check_variable<T: 'static>(&mut self, name: &str) -> bool {
        self.check(name, TypeId::of::<T>())
    }

    /// Takes the variable `name` out.
    ///
    /// # Panics
    ///
    /// If there is none, or it is no `T`: evcxr asks [`VariableStore::check_variable`] before.
    pub fn take_variable<T: 'static>(&mut self, name: &str) -> T {
        match self.take(name).downcast() {
            Ok(value) => *value,
            Err(_) => gone(name),
        }
    }

    /// Returns the shared value of `name`, which `create` makes the first time.
    ///
    /// # Panics
    ///
    /// If it was made with another type.
    pub fn lazy_arc<T: 'static, F: FnOnce() -> T>(&mut self, name: &str, create: F) -> Arc<T> {
        if self.get(name).is_none() {
            self.put(name, Box::new(Arc::new(create())));
        }
        match self.get(name).and_then(|value| value.downcast_ref()) {
            Some(value) => Arc::clone(value),
            None => gone(name),
        }
    }

    /// Adds all variables of another store.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    #[inline(never)]
    fn check(&self, name: &str, is: TypeId) -> bool {
        if keep::keep() {
            return false;
        }
        let kept = self.get(name).is_none_or(|value| value.type_id() == is);
        if !kept {
            lost(name);
        }
        kept
    }

    #[inline(never)]
    fn put(&mut self, name: &str, value: Box<dyn Any>) {
        self.0.insert(name.to_owned(), value);
    }

    fn get(&self, name: &str) -> Option<&dyn Any> {
        self.0.get(name).map(AsRef::as_ref)
    }

    #[inline(never)]
    fn take(&mut self, name: &str) -> Box<dyn Any> {
        self.0.remove(name).unwrap_or_else(|| gone(name))
    }
}

/// Makes the store that evcxr hands from cell to cell.
#[must_use]
pub fn create_variable_store() -> *mut VariableStore {
    Box::into_raw(Box::default())
}

fn lost(name: &str) {
    eprintln!("The type of the variable {name} was redefined, so was lost.");
    println!("{VARIABLE_CHANGED_TYPE}{name}");
}

#[cold]
fn gone(name: &str) -> ! {
    panic!("the variable `{name}` has gone missing")
}

/// Value that `?` turns an error into, having said it.
#[derive(Debug)]
pub struct EvcxrUserCodeError(());

impl<T: Display> From<T> for EvcxrUserCodeError {
    fn from(error: T) -> Self {
        said(&error)
    }
}

fn said(error: &dyn Display) -> EvcxrUserCodeError {
    match front::has_front() {
        // With its own place in the output: what comes on stderr comes before or after.
        true => front::send(&Event::Error {
            evalue: &error.to_string(),
        }),
        false => eprintln!("{error}"),
    }
    println!("{USER_ERROR_OCCURRED}");
    EvcxrUserCodeError(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_taken() {
        let mut store = VariableStore::default();
        store.put_variable("x", 7_i32);
        assert!(store.check_variable::<i32>("x") && store.check_variable::<u8>("y"));
        assert!(!store.check_variable::<u8>("x"));
        assert_eq!(store.take_variable::<i32>("x"), 7);
        assert_eq!(*store.lazy_arc("a", || 1), 1);
        assert_eq!(*store.lazy_arc("a", || 2), 1);
    }
}
