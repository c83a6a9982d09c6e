//! A time that is known within a bound, as people read it: no more digits than the bound is worth.

/// "210 us +/- 40 us". The interval told holds the one given, which begins at or above 0, and so does what is told.
#[must_use]
pub fn estimate(ns: u64, error_ns: u64) -> String {
    let digit = two_digits(error_ns);
    let up = |ns: u64| ns.div_ceil(digit) * digit;
    let told = up(ns);
    let least = ns.saturating_sub(error_ns) / digit * digit;
    let error = (told - least).max(up(ns.saturating_add(error_ns)).saturating_sub(told));
    let (unit, name) = match told {
        0..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "us"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let digits = (unit / digit).checked_ilog10().unwrap_or(0) as usize;
    let scaled = |ns: u64| format!("{:.digits$} {name}", ns as f64 / unit as f64);
    format!("{} +/- {}", scaled(told), scaled(error))
}

/// The worth of the second digit.
fn two_digits(ns: u64) -> u64 {
    10u64.pow(ns.checked_ilog10().unwrap_or(0).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_says_how_many_digits_are_worth_telling() {
        for (ns, error_ns, told) in [
            (210_000, 40_000, "210 us +/- 40 us"),
            (210_345, 40_210, "211 us +/- 41 us"),
            (210_345, 4_021, "210.4 us +/- 4.1 us"),
            (1_234_567, 40_210, "1.235 ms +/- 0.041 ms"),
            (900, 37, "900 ns +/- 37 ns"),
            (1_500, 1_500, "1.5 us +/- 1.5 us"),
            (37, 37, "37 ns +/- 37 ns"),
            (50_503_511, 50_503_511, "51 ms +/- 51 ms"),
            (3_000_000_000, 7_000, "3.0000000 s +/- 0.0000070 s"),
            (0, 0, "0 ns +/- 0 ns"),
        ] {
            assert_eq!(estimate(ns, error_ns), told);
        }
    }

    #[test]
    fn what_is_told_holds_what_was_found_and_is_not_negative() {
        let number = |text: &str| -> f64 {
            let (number, unit) = text.split_once(' ').unwrap();
            number.parse::<f64>().unwrap()
                * match unit {
                    "ns" => 1.0,
                    "us" => 1e3,
                    "ms" => 1e6,
                    _ => 1e9,
                }
        };
        for ns in (0..40).map(|power| 3u64.pow(power) / 7) {
            for error_ns in (0..40).map(|power| 5 * 2u64.pow(power) / 3).filter(|error_ns| *error_ns <= ns) {
                let told = estimate(ns, error_ns);
                let (value, error) = told.split_once(" +/- ").unwrap();
                let (value, error) = (number(value), number(error));
                // As floating point has it.
                let slack = 1e-9 * value;
                assert!(value - error >= -slack, "{told}");
                assert!(value - error <= (ns - error_ns) as f64 + slack, "{told} of {ns} {error_ns}");
                assert!(value + error >= (ns + error_ns) as f64 - slack, "{told} of {ns} {error_ns}");
            }
        }
    }
}
