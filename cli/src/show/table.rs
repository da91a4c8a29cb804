//! Tables of any reply: what is the same in all of them.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{LineStyle, Table};
use serde_json::{Map, Value};

/// Lists of objects as tables, everything else above them.
pub fn text(reply: &Value) -> String {
    let Value::Object(fields) = reply else {
        return if is_list_of_objects(reply) { rows(reply) } else { cell(reply) };
    };
    let (lists, single): (Map<_, _>, Map<_, _>) =
        fields.clone().into_iter().partition(|(_, value)| is_list_of_objects(value));
    let above = (!single.is_empty()).then(|| pairs(&single));
    let lists = lists.iter().map(|(name, list)| format!("{}\n{}", printable(name), rows(list)));
    above.into_iter().chain(lists).collect::<Vec<_>>().join("\n")
}

fn is_list_of_objects(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(Value::is_object))
}

/// A row for each object, a column for each field that one of them has.
fn rows(list: &Value) -> String {
    let objects = || list.as_array().into_iter().flatten().filter_map(Value::as_object);
    let mut fields: Vec<&String> = Vec::new();
    for field in objects().flat_map(Map::keys) {
        if !fields.contains(&field) {
            fields.push(field);
        }
    }
    if fields.is_empty() {
        return "none".into();
    }
    let header = fields.iter().map(|field| printable(field)).collect();
    let rows = objects().map(|object| fields.iter().map(|field| object.get(*field).map(cell).unwrap_or_default()));
    table(header, rows.map(Iterator::collect))
}

/// A row for each field.
pub fn pairs(fields: &Map<String, Value>) -> String {
    let mut table = styled();
    for (name, value) in fields {
        table.add_row([printable(name), cell(value)]);
    }
    table.to_string()
}

/// A table with a header.
pub fn table(header: Vec<String>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = styled();
    table.set_header(header);
    table.add_rows(rows);
    table.to_string()
}

fn styled() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table
}

/// A value in a cell: text without quotes, the bits of a bit map below its value, a line for each object of a list.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        Value::Object(fields) if fields.contains_key("value") => {
            fields.values().map(cell).collect::<Vec<_>>().join("\n")
        }
        Value::Object(fields) => fields.values().map(cell).collect::<Vec<_>>().join(" "),
        Value::Array(list) => {
            let separator = if list.iter().any(Value::is_object) { "\n" } else { ", " };
            list.iter().map(cell).collect::<Vec<_>>().join(separator)
        }
        other => printable(&other.to_string()),
    }
}

/// The names of a bit map's bits.
pub fn bits(value: &Value) -> String {
    let named = value.as_object().into_iter().flatten().filter(|(key, _)| *key != "value");
    named.map(|(_, name)| cell(name)).collect::<Vec<_>>().join(" ")
}

/// Without anything that a terminal would obey.
pub fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}
