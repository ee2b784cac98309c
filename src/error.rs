//! The one error type of the facade: a list of letters, and whether they mean "wrong" or "not supported".

use partita_ir::Diag;
use std::fmt;
use std::path::Path;

/// What stopped a command.
#[derive(Clone, Debug)]
pub struct Error {
    /// Everything that is wrong, at least one entry.
    pub diags: Vec<Diag>,
}

/// Result of the facade's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// One letter.
    pub fn new(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { diags: vec![Diag::new(code, message).hint(hint)] }
    }

    /// A file that could not be read or written.
    pub fn io(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        let diag = Diag::new("F001", format!("cannot {doing} the file: {error}"))
            .in_file(path.display().to_string());
        Self { diags: vec![diag.hint("check the path and the permissions")] }
    }

    /// The same with the file named where it is not yet.
    #[must_use]
    pub fn in_file(mut self, path: &Path) -> Self {
        self.diags = self.diags.into_iter().map(|d| d.in_file(path.display().to_string())).collect();
        self
    }

    /// Whether everything that is wrong is merely not supported.
    pub fn is_unsupported(&self) -> bool {
        self.diags.iter().all(Diag::is_unsupported)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, diag) in self.diags.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{diag}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// What to do about a family of codes, where who found it had nothing to say.
const HINTS: &[(char, &str)] = &[
    ('H', "see fixtures/machines for machine files that are right"),
    ('I', "check the file with ONNX's own checker, or export the model again"),
    ('O', "see passes/RULES.md for how rules are written"),
    ('T', "see src/ir/text/TEXT.md for the grammar"),
    ('U', "write it with operators that are supported"),
    ('V', "check the types and shapes of the operands where the model is made"),
];

fn hinted(diag: Diag) -> Diag {
    if !diag.hint.is_empty() {
        return diag;
    }
    let family = HINTS.iter().find(|(family, _)| diag.code.starts_with(*family));
    diag.hint(family.map_or("see partita --help", |(_, hint)| *hint))
}

impl From<Diag> for Error {
    fn from(diag: Diag) -> Self {
        Self { diags: vec![hinted(diag)] }
    }
}

impl From<Vec<Diag>> for Error {
    fn from(diags: Vec<Diag>) -> Self {
        Self { diags: diags.into_iter().map(hinted).collect() }
    }
}

impl From<partita_plan::PlanError> for Error {
    fn from(error: partita_plan::PlanError) -> Self {
        Diag::from(error).into()
    }
}

impl From<partita_hw::HwError> for Error {
    fn from(error: partita_hw::HwError) -> Self {
        let mut diag = Diag::new(error.code.as_str(), error.message).hint(error.hint).in_file(error.file);
        if error.line > 0 {
            diag = diag.at_line(error.line, error.column);
        }
        diag.into()
    }
}
