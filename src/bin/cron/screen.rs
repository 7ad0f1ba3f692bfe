//! Output for people. Reports go to standard output; logs and the progress of long runs go to
//! standard error. Progress is a bar on a terminal, and otherwise a log line every five seconds.

use std::{
    io::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use billing_service::app::cron::{Beginning, Display, Job};
use indicatif::{MultiProgress, ProgressBar, ProgressFinish, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

/// Keeps bars, logs and reports from writing into each other. Bars are not drawn unless
/// standard error is a terminal.
#[derive(Clone, Default)]
pub struct Screen {
    bars: MultiProgress,
}

impl Screen {
    /// A line of a report.
    pub fn print(&self, line: &str) {
        self.bars.suspend(|| println!("{line}"));
    }

    pub fn show(&self, job: Job, begins: Begins) -> Shown {
        Shown {
            screen: self.clone(),
            job,
            begins,
            bar: OnceLock::new(),
            expected: AtomicU64::new(0),
            done: AtomicU64::new(0),
            begun: Instant::now(),
            shown: AtomicU64::new(0),
        }
    }
}

impl<'w> MakeWriter<'w> for Screen {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

/// Standard error, around the bars.
impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bars.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The origin of a run.
pub enum Begins {
    OnSchedule,
    ByHand { resumes: bool },
}

/// The progress of one run on the screen.
pub struct Shown {
    screen: Screen,
    job: Job,
    begins: Begins,
    /// Present once the job has announced its number of items.
    bar: OnceLock<ProgressBar>,
    expected: AtomicU64,
    done: AtomicU64,
    begun: Instant,
    /// Seconds from `begun` to the last log line.
    shown: AtomicU64,
}

/// Seconds between two log lines.
const SHOW_EVERY: u64 = 5;
/// Time between two updates of the clock in a bar, which runs on during a long chunk.
const TICK: Duration = Duration::from_secs(1);

impl Shown {
    /// Whether the job saves checkpoints, from which another run can continue.
    pub fn has_progress(&self) -> bool {
        self.bar.get().is_some()
    }
}

impl Display for Shown {
    fn begins(&self, from: Beginning) {
        let says = match (&self.begins, from) {
            (Begins::OnSchedule, Beginning::Resumed) => {
                tracing::info!(job = %self.job, "continuing from the checkpoint of the last run");
                return;
            }
            (Begins::ByHand { .. }, Beginning::Resumed) => "continuing from the checkpoint of the last run by hand",
            (Begins::ByHand { .. }, Beginning::Restarted) => {
                "starting over, although the last run by hand was interrupted; --resume continues \
                 that run until this one saves its first checkpoint"
            }
            (Begins::ByHand { resumes: true }, Beginning::First) => {
                "no checkpoint to continue from; starting from the beginning"
            }
            _ => return,
        };
        self.screen.bars.suspend(|| eprintln!("{}: {says}", self.job));
    }

    fn expect(&self, items: u64) {
        self.expected.store(items, Ordering::Relaxed);
        self.bar.get_or_init(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:40} {pos}/{len}, {elapsed}, {eta} left");
            let bar = ProgressBar::new(items).with_prefix(self.job.name()).with_finish(ProgressFinish::Abandon);
            let bar = self.screen.bars.add(style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style)));
            bar.enable_steady_tick(TICK);
            bar
        });
    }

    fn advance(&self, items: u64) {
        let done = self.done.fetch_add(items, Ordering::Relaxed) + items;
        if let Some(bar) = self.bar.get() {
            bar.set_position(done);
            if !bar.is_hidden() {
                return;
            }
        }
        let seconds = self.begun.elapsed().as_secs();
        if seconds >= self.shown.load(Ordering::Relaxed) + SHOW_EVERY {
            self.shown.store(seconds, Ordering::Relaxed);
            let expected = self.expected.load(Ordering::Relaxed);
            tracing::info!(job = %self.job, done, expected, seconds, "in progress");
        }
    }

    fn report(&self, line: &str) {
        self.screen.print(line);
    }
}
