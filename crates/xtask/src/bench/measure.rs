//! Figures: medians of alternating runs, and the table that they go into.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;

/// One line of the table.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub what: String,
    pub ebbtide: String,
    pub other: String,
    pub ratio: String,
    pub goal: String,
    /// `None` where there is no goal.
    pub met: Option<bool>,
}

/// One contender: prepares what it needs, and returns how long the rest took.
pub type Contender<'a> = &'a mut dyn FnMut() -> Result<Duration>;

/// Runs all contenders in turn, so that what else the machine does falls on all of them. Returns
/// their medians.
pub fn alternate(runs: usize, contenders: &mut [Contender<'_>]) -> Result<Vec<Duration>> {
    let mut samples = vec![Vec::with_capacity(runs); contenders.len()];
    for _ in 0..runs {
        for (contender, samples) in contenders.iter_mut().zip(&mut samples) {
            samples.push(contender()?);
        }
    }
    Ok(samples.into_iter().map(median).collect())
}

/// The middle one; of an even number the upper of both in the middle.
pub fn median<T: Ord + Default + Copy>(mut samples: Vec<T>) -> T {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

/// Milliseconds, with three digits that count.
pub fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1e3;
    match milliseconds {
        small if small < 10.0 => format!("{small:.2} ms"),
        middle if middle < 100.0 => format!("{middle:.1} ms"),
        large => format!("{large:.0} ms"),
    }
}

/// How many times longer the other one takes.
pub fn ratio(ebbtide: Duration, other: Duration) -> f64 {
    other.as_secs_f64() / ebbtide.as_secs_f64().max(1e-9)
}

/// The table in Markdown.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| what | Ebbtide | the other | ratio | goal | met |\n|---|---|---|---|---|---|\n",
    );
    for Row { what, ebbtide, other, ratio, goal, met } in rows {
        let met = match met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        let _ = writeln!(text, "| {what} | {ebbtide} | {other} | {ratio} | {goal} | {met} |");
    }
    text
}

/// What the figures were had on.
pub fn machine(runs: usize) -> Result<String> {
    let processors = std::thread::available_parallelism()?;
    let information = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = information.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |model| model.trim_start_matches(['\t', ' ', ':']));
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    Ok(format!(
        "Machine: {processors} processors ({model}), Linux {}, volumes in loop devices; {runs} runs of \
         each; load {load} at the end.",
        ebbtide_sys::kernel::release()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_take_turns_and_the_middle_counts() -> Result<()> {
        let mut order = String::new();
        let cell = std::cell::RefCell::new(&mut order);
        let mut times = [9, 1, 5].into_iter();
        let medians = alternate(
            3,
            &mut [
                &mut || {
                    cell.borrow_mut().push('a');
                    Ok(Duration::from_millis(times.next().unwrap_or_default()))
                },
                &mut || {
                    cell.borrow_mut().push('b');
                    Ok(Duration::from_millis(7))
                },
            ],
        )?;
        assert_eq!(medians, [5, 7].map(Duration::from_millis));
        assert_eq!(order, "ababab");
        Ok(())
    }

    #[test]
    fn figures_have_three_digits() {
        let shown = [1234, 12_345, 123_456].map(|it| milliseconds(Duration::from_micros(it)));
        assert_eq!(shown, ["1.23 ms", "12.3 ms", "123 ms"]);
    }
}
