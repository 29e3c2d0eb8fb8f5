//! What a measurement must keep within.

use anyhow::bail;

/// The figures that are beyond their bounds.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    exceeded: Vec<String>,
}

impl Bounds {
    /// Prints a figure beside its bound.
    pub(super) fn at_most(&mut self, what: &str, figure: f64, bound: f64) {
        self.note(format!("{what}: {figure:.3}, at most {bound:.3}"), figure <= bound);
    }

    /// The same, where less is worse.
    pub(super) fn at_least(&mut self, what: &str, figure: f64, bound: f64) {
        self.note(format!("{what}: {figure:.3}, at least {bound:.3}"), figure >= bound);
    }

    fn note(&mut self, line: String, is_within: bool) {
        println!("  {line}{}", if is_within { "" } else { ": EXCEEDED" });
        if !is_within {
            self.exceeded.push(line);
        }
    }

    /// # Errors
    /// If there is one, with all of them.
    pub(super) fn check(self) -> anyhow::Result<()> {
        if !self.exceeded.is_empty() {
            bail!("beyond the bounds: {}", self.exceeded.join("; "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_is_named_and_what_was_not_measured_is_beyond() {
        let mut bounds = Bounds::default();
        bounds.at_most("MiB", 100.0, 100.0);
        bounds.at_least("polls / s", 200.0, 180.0);
        bounds.at_most("% of a core", 10.1, 10.0);
        bounds.at_most("times the bare client", f64::NAN, 1.6);
        bounds.at_least("polls / s", 100.0, 180.0);
        let error = bounds.check().unwrap_err().to_string();
        let expected = "beyond the bounds: % of a core: 10.100, at most 10.000; times the bare client: NaN, at most 1.600; \
                        polls / s: 100.000, at least 180.000";
        assert_eq!(error, expected);
        assert!(Bounds::default().check().is_ok());
    }
}
