//! Quantities with units, as people write them.

use std::time::Duration;

/// `10ms`, `1.5s`, `300us`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let seconds = quantity(text, &[("us", 1e-6), ("ms", 1e-3), ("s", 1.0)])?;
    Duration::try_from_secs_f64(seconds).map_err(|error| format!("{text}: {error}"))
}

/// Bits per second: `100mbit`, `1gbit`, `64kbit`.
pub fn rate(text: &str) -> Result<u64, String> {
    match quantity(text, &[("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9), ("bit", 1.0)])? as u64 {
        0 => Err(format!("{text}: a line without rate carries nothing")),
        rate => Ok(rate),
    }
}

/// Bytes: `250k` (kilobytes of 1024), `2m`, `1500`.
pub fn bytes(text: &str) -> Result<usize, String> {
    Ok(quantity(text, &[("k", 1024.0), ("m", 1_048_576.0), ("", 1.0)])? as usize)
}

/// A probability: `1%`, `0.05%`.
pub fn percent(text: &str) -> Result<f64, String> {
    let share = quantity(text, &[("%", 0.01)])?;
    if share > 1.0 {
        return Err(format!("{text} is more than everything"));
    }
    Ok(share)
}

fn quantity(text: &str, units: &[(&str, f64)]) -> Result<f64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| format!("{text}: no number at the begin"))?;
    let scale = units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| scale);
    let scale = scale.ok_or_else(|| {
        let known: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
        format!("{text}: the unit is one of {}", known.join(", "))
    })?;
    Ok(number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        assert_eq!(duration("1.5ms"), Ok(Duration::from_micros(1500)));
        assert_eq!(rate("100mbit"), Ok(100_000_000));
        assert_eq!(bytes("250k"), Ok(256_000));
        assert_eq!(bytes("1500"), Ok(1500));
        assert_eq!(percent("0.5%"), Ok(0.005));
    }

    #[test]
    fn mistakes() {
        assert!(duration("10").is_err_and(|text| text.contains("us, ms, s")));
        assert!(duration("ms").is_err() && duration("").is_err());
        assert!(rate("0mbit").is_err() && rate("100MB").is_err());
        assert!(percent("101%").is_err() && percent("-1%").is_err());
    }
}
