//! What is told unasked. No boot knows of it, and it is not compiled.

use super::{SourceFile, read};

/// What `[report]` says, all layers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reports {
    /// Whether those who log in are told how much the last reset took away.
    pub login: bool,
    /// Whether a shutdown tells what the next reset is about to take away.
    pub shutdown: bool,
}

impl Default for Reports {
    fn default() -> Self {
        Self { login: true, shutdown: false }
    }
}

impl Reports {
    /// Reads the files of all layers: of what two say, the later one counts. Mistakes are passed over.
    pub fn read(sources: &[SourceFile]) -> Self {
        let mut problems = Vec::new();
        let mut reports = Self::default();
        for (index, source) in (0..).zip(sources) {
            let Some(file) = read::read(index, source, &mut problems) else { continue };
            reports.login = file.report.login.unwrap_or(reports.login);
            reports.shutdown = file.report.shutdown.unwrap_or(reports.shutdown);
        }
        reports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tables: &[&str]) -> (bool, bool) {
        let source = |table: &&str| SourceFile {
            name: "test.toml".to_owned(),
            text: format!("version = 1\n{table}"),
        };
        let sources: Vec<_> = tables.iter().map(source).collect();
        let Reports { login, shutdown } = Reports::read(&sources);
        (login, shutdown)
    }

    #[test]
    fn the_last_word_counts() {
        let on = "[report]\nshutdown = true\n";
        assert_eq!(of(&[]), (true, false));
        assert_eq!(of(&[on, "[report]\n"]), (true, true));
        assert_eq!(of(&[on, "[report]\nlogin = false\nshutdown = false\n"]), (false, false));
        assert_eq!(of(&["[report]\nlogin = \"no\"\n", "[", on]), (true, true));
    }
}
