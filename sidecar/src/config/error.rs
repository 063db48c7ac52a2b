//! What is wrong with a configuration, said the way a compiler says it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A place in the configuration file. Lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing that is wrong with a configuration file.
///
/// Neither the fields nor the rendering contain a secret's value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct ConfigError {
    /// The file, as it was named to us.
    pub file: PathBuf,
    /// Where in it; `None` when the file could not be read at all.
    pub at: Option<Position>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The offending line, when it may be shown.
    excerpt: Option<Excerpt>,
}

/// A source line that is safe to show, and what to underline in it (in characters, from 0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    pub(super) line: String,
    pub(super) start: usize,
    pub(super) width: usize,
}

impl ConfigError {
    pub(super) fn new(file: &Path, at: Option<Position>, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            at,
            message: message.into(),
            hint: None,
            excerpt: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn excerpt(mut self, excerpt: Option<Excerpt>) -> Self {
        self.excerpt = excerpt;
        self
    }

    /// The same, said to be a warning.
    #[must_use]
    pub fn as_warning(&self) -> Self {
        Self {
            message: format!("warning: {}", self.message),
            ..self.clone()
        }
    }

    /// Line, from 1; `None` when the file could not be read.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.at.map(|at| at.line)
    }

    /// Column in characters, from 1; `None` when the file could not be read.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.at.map(|at| at.column)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(at) = self.at {
            write!(f, "{at}:")?;
        }
        write!(f, " {}", self.message)?;
        let number = self.at.map_or_else(String::new, |at| at.line.to_string());
        if let Some(Excerpt { line, start, width }) = &self.excerpt {
            let gutter = number.len();
            let carets = "^".repeat((*width).max(1));
            write!(
                f,
                "\n {number} | {line}\n {:gutter$} | {:start$}{carets}",
                "", ""
            )?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n {:1$} = help: {hint}", "", number.len())?;
        }
        Ok(())
    }
}

/// Everything that was found wrong with a configuration file: at least one error, in the order of
/// the file. Rendered one below the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
}

impl ConfigErrors {
    /// `Err` with the errors in the order of the file, or `Ok` when there are none.
    pub(super) fn check(mut errors: Vec<ConfigError>) -> Result<(), Self> {
        errors.sort_by_key(|error| error.at);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Self { errors })
        }
    }

    /// The errors, at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.errors.iter()
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self {
            errors: vec![error],
        }
    }
}
