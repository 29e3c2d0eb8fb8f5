//! Kubernetes' rules for names, checked before any of them is sent anywhere.

use thiserror::Error;

/// Longest DNS label, and longest label value (RFC 1123; Kubernetes' `validation` package).
pub const DNS_LABEL_MAX: usize = 63;
/// Longest DNS subdomain (RFC 1123), which most object names are.
pub const DNS_SUBDOMAIN_MAX: usize = 253;

/// How labels and annotations of the operator itself begin: never propagated, and not for plugins to set.
pub const OWN_PREFIXES: [&str; 2] = ["operator.dask.org/", "plugins.dask.org/"];

/// Label on children: name of the DaskPlugin.
pub const PLUGIN_LABEL: &str = "plugins.dask.org/plugin";
/// Label on children: name of the handler.
pub const HANDLER_LABEL: &str = "plugins.dask.org/handler";
/// Label on children: uid of the subject.
pub const SUBJECT_UID_LABEL: &str = "plugins.dask.org/subject-uid";
/// Annotation on children: their key in the handler's set.
pub const KEY_ANNOTATION: &str = "plugins.dask.org/key";
/// Annotation on a subject: a plugin that is parked for it tries again.
pub const RETRY_ANNOTATION: &str = "plugins.dask.org/retry";

/// `operator.dask.org/paused: "true"` stops all writes for an object but that of its status.
pub const PAUSED: &str = "operator.dask.org/paused";

/// How to end that.
pub fn end_of_pause() -> String {
    format!("the annotation {PAUSED} pauses reconciliation; remove it to resume")
}

/// What is wrong with a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("is empty")]
    Empty,
    /// More characters than the rule allows.
    #[error("has {length} characters; at most {max} are allowed")]
    TooLong {
        /// Characters given.
        length: usize,
        /// Characters allowed.
        max: usize,
    },
    /// A character that the rule does not allow, or at a place where it does not.
    #[error(
        "{value:?} must consist of lower case alphanumeric characters{also}, and start and end with an alphanumeric character"
    )]
    Characters {
        /// The name.
        value: String,
        /// Which other characters are allowed.
        also: &'static str,
    },
}

/// A DNS label: what Services and namespaces are named by.
///
/// # Errors
/// What is wrong with it.
pub fn check_dns_label(value: &str) -> Result<(), NameError> {
    check_length(value, DNS_LABEL_MAX)?;
    if is_label(value) { Ok(()) } else { Err(NameError::Characters { value: value.to_owned(), also: " or '-'" }) }
}

/// A DNS subdomain: what most other objects are named by.
///
/// # Errors
/// What is wrong with it.
pub fn check_dns_subdomain(value: &str) -> Result<(), NameError> {
    check_length(value, DNS_SUBDOMAIN_MAX)?;
    if value.split('.').all(is_label) {
        Ok(())
    } else {
        Err(NameError::Characters { value: value.to_owned(), also: ", '-' or '.'" })
    }
}

/// What labels and annotations are named by: at most 63 characters, behind a DNS subdomain and a slash or not.
///
/// # Errors
/// What is wrong with it.
pub fn check_qualified_name(value: &str) -> Result<(), NameError> {
    let name = match value.split_once('/') {
        Some((prefix, name)) => {
            check_dns_subdomain(prefix)?;
            name
        }
        None => value,
    };
    check_length(name, DNS_LABEL_MAX)?;
    check_words(name)
}

/// The value of a label, which may be empty.
///
/// # Errors
/// What is wrong with it.
pub fn check_label_value(value: &str) -> Result<(), NameError> {
    if value.is_empty() {
        return Ok(());
    }
    check_length(value, DNS_LABEL_MAX)?;
    check_words(value)
}

/// Letters of either case and digits, with `-`, `_` and `.` between them.
fn check_words(value: &str) -> Result<(), NameError> {
    let is_alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    let is_word = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte));
    if is_word && is_alphanumeric(bytes.first()) && is_alphanumeric(bytes.last()) {
        Ok(())
    } else {
        Err(NameError::Characters { value: value.to_owned(), also: ", upper case ones, '-', '_' or '.'" })
    }
}

fn check_length(value: &str, max: usize) -> Result<(), NameError> {
    match value.len() {
        0 => Err(NameError::Empty),
        length if length > max => Err(NameError::TooLong { length, max }),
        _ => Ok(()),
    }
}

fn is_label(value: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            alphanumeric(first) && alphanumeric(last) && bytes.iter().all(|&byte| alphanumeric(byte) || byte == b'-')
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        for good in ["a", "a-b", "0a", "a".repeat(63).as_str()] {
            assert_eq!(check_dns_label(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a/b", "a?x=1", "..", "a".repeat(64).as_str()] {
            assert!(check_dns_label(bad).is_err(), "{bad}");
        }
        assert_eq!(check_dns_subdomain("a.b-c.d"), Ok(()));
        for bad in ["a..b", ".a", "a.", "../x", "x?force=true", "x#y", "x/status"] {
            assert!(check_dns_subdomain(bad).is_err(), "{bad}");
        }
    }
}
