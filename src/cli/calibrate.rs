//! `partita calibrate`.

use super::args::CalibrateArgs;
use super::{Io, costs};
use crate::calibrate::{Calibrating, calibrate};
use crate::error::Result;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time that measuring may take in all.
const TIME: Duration = Duration::from_secs(50);

pub(super) fn execute(args: &CalibrateArgs, io: &mut Io) -> Result<()> {
    let machine = crate::devices::detected(false)?;
    let most = args.threads.or_else(|| machine.devices.iter().find_map(|d| d.threads)).unwrap_or(1);
    let path = costs::path_or_default(args.output.as_deref())?;
    let how = Calibrating { threads: &counts(most), time: TIME, date: &today(), progress: io.progress };
    let calibration = calibrate(&machine, &how)?;
    costs::write(&calibration.costs, &path)?;
    io.write(&format!("{}written to {}\n", calibration.report, path.display()))
}

/// Thread counts to measure: powers of two, and the most.
fn counts(most: u32) -> Vec<u32> {
    let mut counts: Vec<u32> = (0..32).map(|power| 1 << power).take_while(|n| *n < most).collect();
    counts.push(most.max(1));
    counts
}

/// Today in UTC as year-month-day.
pub(super) fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    date(seconds / 86_400)
}

/// The day so many days after 1970-01-01, in the Gregorian calendar.
fn date(mut days: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        let known = [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (789, "1972-02-29"),
            (19_782, "2024-02-29"),
            (20_088, "2024-12-31"),
        ];
        for (days, text) in known {
            assert_eq!(date(days), text);
        }
    }

    #[test]
    fn thread_counts_double() {
        assert_eq!(counts(1), [1]);
        assert_eq!(counts(2), [1, 2]);
        assert_eq!(counts(6), [1, 2, 4, 6]);
    }
}
