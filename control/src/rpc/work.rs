//! What one line asks for, and the line that answers it.

use serde::Serialize;
use serde_json::Value;

use super::{Error, Handler, Params};

/// Requests in a batch.
pub const BATCH_MAX: usize = 64;
/// Bytes of results in a line that is sent. A result on top of that becomes an error.
pub const REPLY_LINE_BYTES_MAX: usize = 32 << 20;

/// The requests of a line that are not served yet, and the replies to those that are.
#[derive(Debug)]
pub struct Work {
    rest: std::vec::IntoIter<Value>,
    is_batch: bool,
    replies: Vec<u8>,
}

impl Work {
    /// What `line` asks for.
    pub fn of(line: &[u8]) -> Result<Self, Error> {
        let text = serde_json::from_slice(line).map_err(|error| Error::Parse(error.to_string()))?;
        let (requests, is_batch) = match text {
            Value::Array(requests) if (1..=BATCH_MAX).contains(&requests.len()) => (requests, true),
            Value::Array(requests) => return Err(Error::batch_size(requests.len())),
            request => (vec![request], false),
        };
        Ok(Self { rest: requests.into_iter(), is_batch, replies: Vec::new() })
    }

    /// Serves the next request.
    pub fn step(&mut self, handler: &mut Handler<'_>) {
        let Some((id, outcome)) = self.rest.next().and_then(|request| serve(request, handler)) else { return };
        if self.is_batch {
            self.replies.push(if self.replies.is_empty() { b'[' } else { b',' });
        }
        let start = self.replies.len();
        write(&mut self.replies, &id, &outcome);
        let found = self.replies.len();
        if outcome.is_ok() && found > REPLY_LINE_BYTES_MAX {
            self.replies.truncate(start);
            let why = format!("a reply of {found} bytes was made, {REPLY_LINE_BYTES_MAX} are allowed in a line");
            write(&mut self.replies, &id, &Err(Error::Internal(why)));
        }
    }

    /// Whether all requests are served.
    pub fn is_done(&self) -> bool {
        self.rest.as_slice().is_empty()
    }

    /// The line that answers. Nothing at all if nobody wants to hear.
    pub fn into_line(mut self) -> Vec<u8> {
        if !self.replies.is_empty() {
            self.replies.extend_from_slice(if self.is_batch { b"]\n" } else { b"\n" });
        }
        self.replies
    }
}

/// The line that answers what nobody could tell the id of.
pub fn error_line(error: Error) -> Vec<u8> {
    let mut line = Vec::new();
    write(&mut line, &Value::Null, &Err(error));
    line.push(b'\n');
    line
}

/// Serves `request`: its id and what came of it, unless it is a notification.
fn serve(request: Value, handler: &mut Handler<'_>) -> Option<(Value, Result<Value, Error>)> {
    let Value::Object(mut members) = request else {
        let why = format!("{} was found, an object is allowed", kind_of(&request));
        return Some((Value::Null, Err(Error::Request(why))));
    };
    let id = match members.remove("id") {
        Some(id) if !matches!(id, Value::Null | Value::Number(_) | Value::String(_)) => {
            let why = format!("id: {} was found, a string, a number or null is allowed", kind_of(&id));
            return Some((Value::Null, Err(Error::Request(why))));
        }
        id => id,
    };
    match method_of(&mut members) {
        // Whether this was to be a notification, nobody can tell.
        Err(error) => Some((id.unwrap_or(Value::Null), Err(error))),
        Ok(method) => {
            let outcome = params_of(&mut members).and_then(|params| handler(&method, params));
            id.map(|id| (id, outcome))
        }
    }
}

fn method_of(members: &mut Params) -> Result<String, Error> {
    match members.get("jsonrpc") {
        Some(Value::String(version)) if version == "2.0" => {}
        Some(Value::String(version)) => {
            return Err(Error::Request(format!("jsonrpc: {version:.16} was found, 2.0 is allowed")));
        }
        found => return Err(unlike("jsonrpc", found, "the string 2.0")),
    }
    match members.remove("method") {
        Some(Value::String(method)) => Ok(method),
        found => Err(unlike("method", found.as_ref(), "a string")),
    }
}

fn params_of(members: &mut Params) -> Result<Params, Error> {
    match members.remove("params") {
        None => Ok(Params::new()),
        Some(Value::Object(params)) => Ok(params),
        Some(found) => Err(Error::Params(format!("{} was found, an object is allowed", kind_of(&found)))),
    }
}

fn unlike(member: &str, found: Option<&Value>, allowed: &str) -> Error {
    Error::Request(format!("{member}: {} was found, {allowed} is needed", found.map_or("nothing", kind_of)))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[derive(Serialize)]
struct Reply<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Fault>,
    id: &'a Value,
}

#[derive(Serialize)]
struct Fault {
    code: i64,
    message: String,
}

fn write(out: &mut Vec<u8>, id: &Value, outcome: &Result<Value, Error>) {
    let error = outcome.as_ref().err().map(|error| Fault { code: error.code(), message: error.to_string() });
    let reply = Reply { jsonrpc: "2.0", result: outcome.as_ref().ok(), error, id };
    serde_json::to_writer(out, &reply).expect("a vector takes every byte and every key is a string");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::refusal::Code;

    fn handle(method: &str, params: Params) -> Result<Value, Error> {
        match method {
            "echo" => Ok(params.into()),
            "null" => Ok(Value::Null),
            "long" => Ok("x".repeat(REPLY_LINE_BYTES_MAX / 2).into()),
            "refuse" => Err(Code::Mtu.because("1 was found, 68 to 65535 are allowed").into()),
            "break" => Err(Error::Internal("no more".into())),
            _ => Err(Error::Method(method.into())),
        }
    }

    /// The answer to `line` as it is sent.
    fn sent(line: &[u8]) -> Vec<u8> {
        match Work::of(line) {
            Err(error) => error_line(error),
            Ok(mut work) => {
                while !work.is_done() {
                    work.step(&mut handle);
                }
                work.into_line()
            }
        }
    }

    #[track_caller]
    fn answer(line: &str) -> Value {
        let sent = sent(line.as_bytes());
        let line = sent.strip_suffix(b"\n").expect("a line has an end");
        assert!(!line.contains(&b'\n'), "and only one");
        serde_json::from_slice(line).unwrap()
    }

    #[track_caller]
    fn assert_error(line: &str, id: Value, code: i64, says: &str) {
        let answer = answer(line);
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(code)), "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{message}");
        assert_eq!(answer.as_object().unwrap().len(), 3, "no result comes with it: {answer}");
    }

    #[test]
    fn an_id_comes_back_as_it_was() {
        for id in ["1", "-7", "1.5", "\"a\\nb\"", "\"\"", "null", "18446744073709551615"] {
            let reply = answer(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"echo","params":{{"pf":3}}}}"#));
            let id: Value = serde_json::from_str(id).unwrap();
            assert_eq!(reply, json!({"jsonrpc": "2.0", "id": id, "result": {"pf": 3}}));
        }
    }

    #[test]
    fn a_result_may_be_null_and_params_may_be_left_out() {
        let reply = answer(r#"{"jsonrpc":"2.0","id":1,"method":"null"}"#);
        assert_eq!(reply, json!({"jsonrpc": "2.0", "id": 1, "result": null}));
        assert_eq!(answer(r#"{"jsonrpc":"2.0","id":1,"method":"echo"}"#)["result"], json!({}));
    }

    #[test]
    fn what_is_no_json_is_a_parse_error() {
        for line in ["{", "nonsense", "\u{0}", "{}{}", r#"{"jsonrpc":"2.0","id":1e999,"method":"echo"}"#] {
            assert_error(line, Value::Null, -32700, "at line 1 column");
        }
        assert_error(&"[".repeat(200), Value::Null, -32700, "recursion limit exceeded");
        assert!(sent(b"\"\xff\"").starts_with(br#"{"jsonrpc":"2.0","error":{"code":-32700,"#));
    }

    #[test]
    fn what_is_no_request_is_invalid() {
        for (line, id, says) in [
            ("1", Value::Null, "a number was found, an object is allowed"),
            ("{}", Value::Null, "jsonrpc: nothing was found, the string 2.0 is needed"),
            (r#"{"jsonrpc":2.0,"id":4,"method":"echo"}"#, json!(4), "jsonrpc: a number was found"),
            (r#"{"jsonrpc":"1.0","id":4,"method":"echo"}"#, json!(4), "jsonrpc: 1.0 was found, 2.0 is allowed"),
            (r#"{"jsonrpc":"2.0","id":"a"}"#, json!("a"), "method: nothing was found, a string is needed"),
            (r#"{"jsonrpc":"2.0","method":null}"#, Value::Null, "method: null was found"),
            (r#"{"jsonrpc":"2.0","id":[1],"method":"echo"}"#, Value::Null, "id: an array was found"),
            (r#"{"jsonrpc":"2.0","id":true,"method":"echo"}"#, Value::Null, "id: a boolean was found"),
            ("[]", Value::Null, "a batch of 0 was found, 1 to 64 requests are allowed"),
        ] {
            assert_error(line, id, -32600, says);
        }
    }

    #[test]
    fn other_errors_have_their_codes() {
        let request =
            |method: &str, params: &str| format!(r#"{{"jsonrpc":"2.0","id":9,"method":"{method}","params":{params}}}"#);
        assert_error(&request("fly", "{}"), json!(9), -32601, "Method not found: fly");
        assert_error(&request("echo", "[1]"), json!(9), -32602, "an array was found, an object is allowed");
        assert_error(&request("echo", "null"), json!(9), -32602, "null was found");
        assert_error(&request("break", "{}"), json!(9), -32603, "Internal error: no more");
        assert_error(&request("refuse", "{}"), json!(9), -1010, "MTU is invalid: 1 was found");
        let long = answer(&request(&"m".repeat(1000), "{}"));
        assert_eq!(long["error"]["message"], json!(format!("Method not found: {}", "m".repeat(64))));
    }

    #[test]
    fn notifications_are_served_and_not_answered() {
        let mut served = Vec::new();
        for line in [
            r#"{"jsonrpc":"2.0","method":"a"}"#,
            r#"[{"jsonrpc":"2.0","method":"b"},{"jsonrpc":"2.0","method":"c","params":[]}]"#,
        ] {
            let mut work = Work::of(line.as_bytes()).unwrap();
            while !work.is_done() {
                work.step(&mut |method, _| {
                    served.push(method.to_string());
                    Err(Error::Method(method.into()))
                });
            }
            assert_eq!(work.into_line(), b"");
        }
        assert_eq!(served, ["a", "b"], "c has no object of parameters");
    }

    #[test]
    fn a_batch_is_answered_in_one_line_and_in_order() {
        let line = r#"[{"jsonrpc":"2.0","id":1,"method":"echo"},{"jsonrpc":"2.0","method":"echo"},7,
            {"jsonrpc":"2.0","id":"2","method":"fly"}]"#;
        let replies = answer(&line.replace('\n', ""));
        let codes: Vec<_> = replies.as_array().unwrap().iter().map(|reply| reply["error"]["code"].as_i64()).collect();
        assert_eq!(codes, [None, Some(-32600), Some(-32601)]);
        assert_eq!(replies[2]["id"], json!("2"));
    }

    #[test]
    fn a_batch_has_64_requests_at_most() {
        let batch = |count| json!(vec![json!({"jsonrpc": "2.0", "id": 1, "method": "echo"}); count]).to_string();
        assert_eq!(answer(&batch(64)).as_array().unwrap().len(), 64);
        assert_error(&batch(65), Value::Null, -32600, "a batch of 65 was found");
    }

    #[test]
    fn results_that_are_too_much_for_a_line_become_errors() {
        let long = json!({"jsonrpc": "2.0", "id": 1, "method": "long"});
        let replies = answer(&json!([long, long, {"jsonrpc": "2.0", "id": 2, "method": "echo"}]).to_string());
        assert!(replies[0]["result"].is_string());
        assert_eq!(replies[1]["error"]["code"], json!(-32603));
        assert!(replies[1]["error"]["message"].as_str().unwrap().contains("33554432 are allowed"));
        assert!(replies[2]["result"].is_object(), "the next one fits");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_answered_with_json_or_not_at_all(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let sent = sent(&line);
            prop_assert!(sent.is_empty() || serde_json::from_slice::<Value>(&sent).is_ok());
        }

        #[test]
        fn so_is_whatever_looks_like_a_request(
            version in prop_oneof![Just(json!("2.0")), Just(json!(2)), Just(json!("1"))],
            id in prop_oneof![Just(json!(1)), Just(json!({})), Just(json!(null)), ".*".prop_map(Value::from)],
            method in prop_oneof![Just(json!("echo")), Just(json!([])), ".*".prop_map(Value::from)],
            params in prop_oneof![Just(json!({"a": 1})), Just(json!([1])), Just(json!(0))],
            count in 0..70_usize,
        ) {
            let request = json!({"jsonrpc": version, "id": id, "method": method, "params": params});
            prop_assert_eq!(&answer(&request.to_string())["jsonrpc"], &json!("2.0"));
            let answer = answer(&json!(vec![request; count]).to_string());
            let expected = if (1..=BATCH_MAX).contains(&count) { count } else { 0 };
            prop_assert_eq!(answer.as_array().map_or(0, Vec::len), expected);
        }
    }
}
