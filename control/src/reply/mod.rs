//! What is answered, in the product's shapes: its fields, their order, and which numbers are strings.

mod bits;
mod controller;
mod debug;
mod function;
mod health;
mod queue;
mod rates;

use serde_json::{Map, Value};

pub use bits::{features, status};
pub use controller::controller;
pub use debug::{Debug, Details};
pub use function::{Sight, capitals, listed, queried};
pub use health::{Health, health};
pub use queue::{Ring, stats};
pub use rates::{Moved, Rates, Way};

/// An object whose fields come in the order in which they are written.
#[derive(Debug, Default)]
struct Object(Map<String, Value>);

impl Object {
    /// A field as it is.
    fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// A field whose value is printed as a string.
    fn text(&mut self, key: &str, value: impl ToString) {
        self.put(key, value.to_string());
    }

    /// A field whose value is printed in hexadecimal, as a string.
    fn hex(&mut self, key: &str, value: impl Into<u64>) {
        self.put(key, format!("{:#x}", value.into()));
    }

    /// The same in capitals, as ids are.
    fn capital_hex(&mut self, key: &str, value: impl Into<u64>) {
        self.put(key, format!("{:#X}", value.into()));
    }
}

impl From<Object> for Value {
    fn from(Object(map): Object) -> Value {
        Value::Object(map)
    }
}
