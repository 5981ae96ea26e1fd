//! JSON: an array of objects, or an object a line.
//!
//! Numbers are numbers, 64-bit integers and decimals with all their digits; what JSON has no number
//! for (NaN, infinities) is null. Times are ISO 8601, binary is hexadecimal, keys of maps are
//! strings. A name that comes twice, as in `SELECT 1 AS a, 2 AS a`, gets a number the second time
//! (`a_1`), since most readers keep only one of two equal keys.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, MapArray, RecordBatch};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::writer::{
    Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder,
};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use super::cells::unwritable;
use super::{FLUSH_BYTES, Renderer, Shown};

/// How the objects stand in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Array,
    Lines,
}

/// Writes rows as JSON objects.
pub(super) struct JsonRenderer {
    layout: Layout,
    options: JsonOptions,
    fields: Vec<FieldRef>,
    /// Each column's name as it is written: quoted, with its colon.
    keys: Vec<Vec<u8>>,
    row_count: usize,
    buffer: Vec<u8>,
}

impl JsonRenderer {
    /// Makes a renderer that has written nothing.
    pub(super) fn new(schema: &Schema, layout: Layout) -> Self {
        let names = distinct(schema.fields().iter().map(|field| field.name().as_str()));
        Self {
            layout,
            options: JsonOptions::default(),
            fields: schema.fields().to_vec(),
            keys: names.iter().map(|name| key(name)).collect(),
            row_count: 0,
            buffer: Vec::new(),
        }
    }

    fn start_row(&mut self) {
        match (self.layout, self.row_count) {
            (Layout::Lines, _) => {}
            (Layout::Array, 0) => self.buffer.extend_from_slice(b"[\n"),
            (Layout::Array, _) => self.buffer.extend_from_slice(b",\n"),
        }
        self.row_count += 1;
    }
}

impl Renderer for JsonRenderer {
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()> {
        let options = self.options.clone();
        let fields = self.fields.clone();
        let mut encoders = batch
            .columns()
            .iter()
            .zip(&fields)
            .map(|(array, field)| options.encoder(field, array))
            .collect::<io::Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            self.start_row();
            self.buffer.push(b'{');
            for (idx, encoder) in encoders.iter_mut().enumerate() {
                if idx > 0 {
                    self.buffer.push(b',');
                }
                self.buffer.extend_from_slice(&self.keys[idx]);
                if encoder.is_null(row) {
                    self.buffer.extend_from_slice(b"null");
                } else {
                    encoder.encode(row, &mut self.buffer);
                }
            }
            self.buffer.push(b'}');
            if self.layout == Layout::Lines {
                self.buffer.push(b'\n');
            }
            if self.buffer.len() >= FLUSH_BYTES {
                out.write_all(&self.buffer)?;
                self.buffer.clear();
            }
        }
        out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(self: Box<Self>, out: &mut dyn Write) -> io::Result<Shown> {
        match (self.layout, self.row_count) {
            (Layout::Lines, _) => {}
            (Layout::Array, 0) => out.write_all(b"[]\n")?,
            (Layout::Array, _) => out.write_all(b"\n]\n")?,
        }
        Ok(Shown::default())
    }
}

/// Numbers the names that came before, without meeting another name.
fn distinct<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let given: HashSet<&str> = names.clone().collect();
    let mut taken = HashSet::new();
    names
        .map(|name| {
            let mut distinct = name.to_owned();
            let mut number = 0;
            while taken.contains(&distinct) || (number > 0 && given.contains(distinct.as_str())) {
                number += 1;
                distinct = format!("{name}_{number}");
            }
            taken.insert(distinct.clone());
            distinct
        })
        .collect()
}

fn key(name: &str) -> Vec<u8> {
    let mut key = Vec::new();
    write_string(name, &mut key);
    key.push(b':');
    key
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}

/// How values are written as JSON; shared with the formats that hold nested values.
#[derive(Debug, Clone)]
pub(super) struct JsonOptions(EncoderOptions);

impl Default for JsonOptions {
    fn default() -> Self {
        Self(
            EncoderOptions::default()
                .with_explicit_nulls(true)
                .with_encoder_factory(Arc::new(MissingEncoders)),
        )
    }
}

impl JsonOptions {
    /// Makes an encoder of a column's values; the caller writes the nulls.
    pub(super) fn encoder<'a>(
        &'a self,
        field: &'a FieldRef,
        array: &'a dyn Array,
    ) -> io::Result<NullableEncoder<'a>> {
        let encoder = make_encoder(field, array, &self.0).map_err(unwritable)?;
        // Arrow asks a dictionary's keys only, but its values can be null, too.
        Ok(match array.data_type() {
            DataType::Dictionary(..) => {
                NullableEncoder::new(Box::new(Delegate(encoder)), array.logical_nulls())
            }
            _ => encoder,
        })
    }
}

struct Delegate<'a>(NullableEncoder<'a>);

impl Encoder for Delegate<'_> {
    fn encode(&mut self, idx: usize, out: &mut Vec<u8>) {
        self.0.encode(idx, out);
    }
}

/// Encoders of the types that Arrow's JSON writer refuses.
#[derive(Debug)]
struct MissingEncoders;

impl EncoderFactory for MissingEncoders {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        Ok(match array.data_type() {
            DataType::Map(..) => {
                let array = array.as_map();
                let encoder = MapEncoder::new(field, array, options)?;
                Some(NullableEncoder::new(Box::new(encoder), array.nulls().cloned()))
            }
            DataType::Union(..) => {
                let encoder = TextEncoder(ArrayFormatter::try_new(array, &TEXT)?);
                Some(NullableEncoder::new(Box::new(encoder), array.logical_nulls()))
            }
            _ => None,
        })
    }
}

const TEXT: FormatOptions<'static> = FormatOptions::new().with_null("null");

/// A map as an object. Keys of any type become strings, as JSON has no other keys.
struct MapEncoder<'a> {
    offsets: OffsetBuffer<i32>,
    keys: ArrayFormatter<'a>,
    values: NullableEncoder<'a>,
}

impl<'a> MapEncoder<'a> {
    fn new(
        field: &'a FieldRef,
        array: &'a MapArray,
        options: &'a EncoderOptions,
    ) -> Result<Self, ArrowError> {
        let (keys, values): (&ArrayRef, &ArrayRef) = (array.keys(), array.values());
        Ok(Self {
            offsets: array.offsets().clone(),
            keys: ArrayFormatter::try_new(keys, &TEXT)?,
            values: make_encoder(field, values, options)?,
        })
    }
}

impl Encoder for MapEncoder<'_> {
    fn encode(&mut self, idx: usize, out: &mut Vec<u8>) {
        let entry = |offset: i32| usize::try_from(offset).unwrap_or_default();
        let (start, end) = (entry(self.offsets[idx]), entry(self.offsets[idx + 1]));
        out.push(b'{');
        for entry in start..end {
            if entry > start {
                out.push(b',');
            }
            write_string(&self.keys.value(entry).to_string(), out);
            out.push(b':');
            if self.values.is_null(entry) {
                out.extend_from_slice(b"null");
            } else {
                self.values.encode(entry, out);
            }
        }
        out.push(b'}');
    }
}

/// Anything as a string.
struct TextEncoder<'a>(ArrayFormatter<'a>);

impl Encoder for TextEncoder<'_> {
    fn encode(&mut self, idx: usize, out: &mut Vec<u8>) {
        write_string(&self.0.value(idx).to_string(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_names_are_numbered_without_meeting_others() {
        let names = ["a", "b", "a", "a_1", "a", "A"];
        assert_eq!(distinct(names.into_iter()), ["a", "b", "a_2", "a_1", "a_3", "A"]);
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(key("a\"b\n"), b"\"a\\\"b\\n\":");
    }
}
