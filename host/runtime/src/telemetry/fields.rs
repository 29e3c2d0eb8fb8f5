//! What a line of the log says, with every text on it in a form that can't be taken for anything else.
//!
//! The layer of tracing-subscriber writes texts as they come (but for escape sequences of terminals), and a great part of them
//! is not ours: lines of plugins, messages of the API server and its webhooks, names of files. Each value passes
//! [`line()`] here, in all formats.

use std::{error::Error, fmt};

use dask_wasm_operator_core::{error::chain, text::line};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

/// The most of one value, in bytes: twice the longest line of a plugin.
pub(super) const VALUE_BYTES: usize = 4 << 10;

/// The field that is the line's message.
const MESSAGE: &str = "message";

/// The fields of a line or a span, in their order.
#[derive(Default)]
struct Fields(Vec<(&'static str, Told)>);

/// The value of a field, as it came.
enum Told {
    /// A text.
    Text(String),
    /// Something that writes itself as text.
    Written(String),
    /// A number or a truth.
    Value(Value),
}

impl Fields {
    fn of(record: &impl RecordFields) -> Self {
        let mut fields = Self::default();
        record.record(&mut fields);
        fields
    }

    fn add(&mut self, field: &Field, told: Told) {
        let name = field.name();
        self.0.push((name.strip_prefix("r#").unwrap_or(name), told));
    }

    fn add_value(&mut self, field: &Field, value: impl Into<Value>) {
        self.add(field, Told::Value(value.into()));
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Told::Text(value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Told::Written(format!("{value:?}")));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.add(field, Told::Written(chain(value)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add_value(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add_value(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add_value(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add_value(field, value);
    }
}

/// Texts in quotation marks, everything else without.
impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&line(&format!("{text:?}"), VALUE_BYTES)),
            Self::Written(text) => f.write_str(&line(text, VALUE_BYTES)),
            Self::Value(value) => write!(f, "{value}"),
        }
    }
}

impl Serialize for Told {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) | Self::Written(text) => serializer.serialize_str(&line(text, VALUE_BYTES)),
            Self::Value(value) => value.serialize(serializer),
        }
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, told)| (name, told)))
    }
}

/// For people: the message, then `name=value`.
pub(super) struct TextFields;

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let (italic, dimmed, end) =
            if writer.has_ansi_escapes() { ("\u{1b}[3m", "\u{1b}[2m", "\u{1b}[0m") } else { ("", "", "") };
        for (at, (name, told)) in Fields::of(&fields).0.iter().enumerate() {
            if at > 0 {
                writer.write_char(' ')?;
            }
            match (*name, told) {
                (MESSAGE, Told::Text(text) | Told::Written(text)) => {
                    writer.write_str(&line(text, VALUE_BYTES))?;
                }
                (name, told) => write!(writer, "{italic}{name}{end}{dimmed}={end}{told}")?,
            }
        }
        Ok(())
    }
}

/// For [`JsonLine`]: an object, and another one behind it for what a span learns later.
pub(super) struct JsonFields;

impl<'writer> FormatFields<'writer> for JsonFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        writer.write_str(&to_json(&Fields::of(&fields))?)
    }
}

/// For machines: an object a line.
pub(super) struct JsonLine;

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'a str,
    #[serde(flatten)]
    fields: Fields,
    target: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spans: Vec<Map<String, Value>>,
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let spans = context.event_scope().into_iter().flat_map(|scope| scope.from_root());
        let spans = spans.map(|span| {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map(|fields| fields.fields.as_str());
            let objects = serde_json::Deserializer::from_str(fields.unwrap_or_default()).into_iter();
            let mut told: Map<String, Value> = objects.flatten().flat_map(|fields: Map<_, _>| fields).collect();
            told.insert("name".to_owned(), span.name().into());
            told
        });
        let metadata = event.metadata();
        let line = Line {
            timestamp,
            level: metadata.level().as_str(),
            fields: Fields::of(event),
            target: metadata.target(),
            spans: spans.collect(),
        };
        writeln!(writer, "{}", to_json(&line)?)
    }
}

fn to_json(value: &impl Serialize) -> Result<String, fmt::Error> {
    serde_json::to_string(value).map_err(|_| fmt::Error)
}
