//! What is asked of the service, and the product's echo of it.
//!
//! The two differ: the echo has flags that are not set, and numbers where a request has words.

use std::fmt;

use serde_json::{Map, Value};

/// A request.
#[derive(Debug)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Its parameters, by the options' long names.
    pub params: Map<String, Value>,
    /// Its echo.
    pub echo: Echo,
}

/// A request as the product shows it: a dictionary of Python's, with numbers as hex strings.
#[derive(Debug, Default)]
pub struct Echo(Vec<(String, Value)>);

impl Request {
    /// A request without parameters.
    pub fn new(method: &str) -> Self {
        Self { method: method.into(), params: Map::new(), echo: Echo::default() }
    }

    /// A request with these parameters.
    pub fn raw(method: &str, params: &Map<String, Value>) -> Self {
        let echo = params.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Self { method: method.into(), params: params.clone(), echo: Echo(echo) }
    }

    /// With an option, if it was given.
    pub fn given(self, key: &str, value: Option<impl Into<Value>>) -> Self {
        match value.map(Into::into) {
            Some(value) => self.sent(key, value.clone()).echoed(key, value),
            None => self,
        }
    }

    /// With a flag: sent if it is set, echoed anyway.
    pub fn flag(self, key: &str, set: bool) -> Self {
        let request = if set { self.sent(key, true) } else { self };
        request.echoed(key, set)
    }

    /// With a parameter that has no echo.
    pub fn sent(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.params.insert(key.into(), value.into());
        self
    }

    /// With something that is only echoed.
    pub fn echoed(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.echo.0.push((key.into(), value.into()));
        self
    }
}

impl fmt::Display for Echo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (key, value)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Bool(set) => format!("{:#x}", u8::from(*set)),
                Value::Number(number) if number.is_u64() => format!("{:#x}", number.as_u64().unwrap_or_default()),
                other => other.to_string(),
            };
            write!(f, "{separator}{}: {}", Quoted(key), Quoted(&value))?;
        }
        f.write_str("}")
    }
}

/// A string as Python shows it.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('\'') && !self.0.contains('"') { '"' } else { '\'' };
        write!(f, "{quote}")?;
        for character in self.0.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                _ if character == quote => write!(f, "\\{character}")?,
                _ if character.is_control() => write!(f, "{}", character.escape_default())?,
                _ => write!(f, "{character}")?,
            }
        }
        write!(f, "{quote}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_a_dictionary_of_pythons() {
        let request = Request::new("any").given("pf", Some(10)).given("vf", None::<u64>).flag("all", false);
        assert_eq!(request.flag("brief", true).echo.to_string(), "{'pf': '0xa', 'all': '0x0', 'brief': '0x1'}");
        assert_eq!(Request::new("list").echo.to_string(), "{}");
        let quotes =
            Request::new("any").given("a", Some("it's")).given("b", Some("'\"")).given("c", Some("\\ \u{1b}["));
        assert_eq!(quotes.echo.to_string(), r#"{'a': "it's", 'b': '\'"', 'c': '\\ \u{1b}['}"#);
    }

    #[test]
    fn flags_that_are_not_set_are_not_sent() {
        let request = Request::new("any").flag("all", false).flag("brief", true).echoed("subcmd", 0);
        assert_eq!(Value::Object(request.params), serde_json::json!({"brief": true}));
    }
}
