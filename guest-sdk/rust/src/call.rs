//! Reading a call.

use std::time::Duration;

use serde::Deserialize;

use crate::{Call, Failure};

impl Call {
    /// The subject as a type that has the fields of interest; all others are skipped, which is several times faster than
    /// reading the whole object.
    ///
    /// # Errors
    /// A permanent failure that names the field, if the subject has another form.
    pub fn subject<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        read("the subject", &self.subject.object)
    }

    /// The plugin's configuration, `spec.config` of its DaskPlugin. A type for which none may be given is an `Option` or has
    /// `#[serde(default)]`, and gets an empty object then.
    ///
    /// # Errors
    /// A permanent failure that names the field, if the configuration has another form.
    pub fn config<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        let config = if self.config == "null" { "{}" } else { &self.config };
        read("spec.config of the DaskPlugin", config)
    }

    /// The related objects that were asked for under a name.
    ///
    /// # Errors
    /// A permanent failure that names the field, if one of them has another form.
    pub fn related<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Result<Vec<T>, Failure> {
        let found = self.related.iter().filter(|related| related.name == name);
        found
            .flat_map(|related| &related.objects)
            .map(|object| read(&format!("related object {name}"), object))
            .collect()
    }
}

fn read<'a, T: Deserialize<'a>>(what: &str, json: &'a str) -> Result<T, Failure> {
    serde_json::from_str(json).map_err(|error| Failure::permanent(format!("{what} can't be read: {error}")))
}

/// The interface counts in milliseconds; longer than it can count is for ever.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RelatedObjects, json, testing};

    #[derive(Debug, PartialEq, Deserialize)]
    struct Named<'a> {
        name: &'a str,
    }

    #[derive(Debug, PartialEq, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        host: String,
    }

    fn call() -> Call {
        testing::call("any", &json!({"metadata": {"name": "a"}, "name": "b", "size": 3}))
    }

    #[test]
    fn only_the_fields_of_interest_are_read() {
        assert_eq!(call().subject::<Named<'_>>(), Ok(Named { name: "b" }));
        let failure = call().subject::<Vec<u8>>().unwrap_err();
        assert!(
            matches!(failure, Failure::Permanent(message) if message.starts_with("the subject can't be read: invalid type"))
        );
    }

    #[test]
    fn a_configuration_that_is_not_there_is_an_empty_one() {
        assert_eq!(call().config(), Ok(Config::default()));
        let given = Call { config: r#"{"host": "h"}"#.into(), ..call() };
        assert_eq!(given.config(), Ok(Config { host: "h".into() }));
        let wrong = Call { config: r#"{"hots": "h"}"#.into(), ..call() };
        let failure = wrong.config::<Config>().unwrap_err();
        assert!(matches!(failure, Failure::Permanent(message) if message.contains("unknown field `hots`")));
    }

    #[test]
    fn related_objects_are_found_by_their_name() {
        let related = vec![RelatedObjects { name: "pods".into(), objects: vec![r#"{"name": "p"}"#.into()] }];
        let call = Call { related, ..call() };
        assert_eq!(call.related("pods"), Ok(vec![Named { name: "p" }]));
        assert_eq!(call.related::<Named<'_>>("nodes"), Ok(Vec::new()));
    }
}
