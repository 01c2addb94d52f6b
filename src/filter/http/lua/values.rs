//! Metadata as scripts see it, and what they make of it.

use causeway_xds::resource::metadata::MetadataValue;
use mlua::{Error, Lua, Result, Table, Value};

/// How deep a table may be.
const MAX_DEPTH: usize = 16;

/// # Errors
/// There is no memory left.
pub fn to_lua(lua: &Lua, value: &MetadataValue) -> Result<Value> {
    Ok(match value {
        MetadataValue::Null => Value::Nil,
        MetadataValue::Bool(value) => Value::Boolean(*value),
        MetadataValue::Number(value) => Value::Number(*value),
        MetadataValue::Text(text) => Value::String(lua.create_string(text)?),
        MetadataValue::List(values) => {
            let table = lua.create_table_with_capacity(values.len(), 0)?;
            for value in values {
                table.raw_push(to_lua(lua, value)?)?;
            }
            Value::Table(table)
        }
        MetadataValue::Object(fields) => {
            let table = lua.create_table_with_capacity(0, fields.len())?;
            for (key, value) in fields {
                table.raw_set(key.as_str(), to_lua(lua, value)?)?;
            }
            Value::Table(table)
        }
    })
}

/// A table that begins with the key 1 is a list. Texts that are no UTF-8 lose what is not.
///
/// # Errors
/// There is something in it that metadata has no form for.
pub fn to_metadata(lua: &Lua, value: &Value) -> Result<MetadataValue> {
    within(lua, value, MAX_DEPTH)
}

fn within(lua: &Lua, value: &Value, depth: usize) -> Result<MetadataValue> {
    Ok(match value {
        Value::Nil => MetadataValue::Null,
        Value::Boolean(value) => MetadataValue::Bool(*value),
        // Numbers of Lua 5.2 are doubles.
        Value::Integer(value) => MetadataValue::Number(*value as f64),
        Value::Number(value) => MetadataValue::Number(*value),
        Value::String(text) => MetadataValue::Text(text.to_string_lossy()),
        Value::Table(_) if depth == 0 => {
            return Err(Error::runtime("a table is too deep for metadata"));
        }
        Value::Table(table) => of_table(lua, table, depth - 1)?,
        other => {
            let reason = format!("metadata cannot hold a {}", other.type_name());
            return Err(Error::runtime(reason));
        }
    })
}

fn of_table(lua: &Lua, table: &Table, depth: usize) -> Result<MetadataValue> {
    let length = table.raw_len();
    if length > 0 {
        let values = (1..=length).map(|at| within(lua, &table.raw_get(at)?, depth));
        return Ok(MetadataValue::List(values.collect::<Result<_>>()?));
    }
    let mut fields = Vec::new();
    table.for_each(|key: Value, value: Value| {
        let Some(key) = lua.coerce_string(key)? else {
            return Err(Error::runtime("keys of metadata are texts"));
        };
        fields.push((key.to_string_lossy(), within(lua, &value, depth)?));
        Ok(())
    })?;
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(MetadataValue::Object(fields))
}
