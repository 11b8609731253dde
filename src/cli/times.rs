//! Times and durations as people type and read them.

const MS_PER_DAY: i64 = 86_400_000;

/// "90s", "15m", "1h", "7d", "250ms", also several: "1d12h". In milliseconds.
pub fn duration_ms(text: &str) -> Result<i64, String> {
    let wrong = || format!("'{text}' is no duration; say 90s, 15m, 1h30m or 7d");
    let mut total: i64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: i64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => MS_PER_DAY,
            _ => return Err(wrong()),
        };
        rest = &rest[letters..];
        total = number.checked_mul(unit).and_then(|more| total.checked_add(more)).ok_or_else(wrong)?;
    }
    Ok(total)
}

/// RFC 3339 ("2026-11-21T19:00:00Z", "2026-11-21 19:00:00.250+01:00"), a day, or milliseconds since 1970. Without a zone
/// it is UTC. In milliseconds since 1970.
pub fn datetime_ms(text: &str) -> Result<i64, String> {
    let wrong = || format!("'{text}' is no time; say 2026-11-21T19:00:00Z, or milliseconds since 1970");
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| wrong());
    }
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let parts: Vec<&str> = date.split('-').collect();
    let [year, month, day] = parts.as_slice() else { return Err(wrong()) };
    let (year, month, day) = (digits(year, 4), digits(month, 2), digits(day, 2));
    let (Some(year), Some(month), Some(day)) = (year, month, day) else { return Err(wrong()) };
    if !(1..=12).contains(&month) || day < 1 || day > days_of(year, month) {
        return Err(wrong());
    }
    let within = time.map_or(Some(0), time_of_day_ms).ok_or_else(wrong)?;
    Ok(days_since_1970(year, month, day) * MS_PER_DAY + within)
}

/// "2026-11-21 19:00:00", UTC.
pub fn shown(at_ms: i64) -> String {
    let (days, seconds) = (at_ms.div_euclid(MS_PER_DAY), at_ms.rem_euclid(MS_PER_DAY) / 1_000);
    let mut year = 1970 + days.div_euclid(366);
    while days_since_1970(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_since_1970(year, month + 1, 1) <= days {
        month += 1;
    }
    let day = days - days_since_1970(year, month, 1) + 1;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// "3s", "4m 05s", "2h 03m", "5d 01h": two units at most.
pub fn age(age_ms: i64) -> String {
    let seconds = age_ms / 1_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// "19:00", "19:00:00.25Z", "19:00:00-05:30"; negative where the zone makes it the day before.
fn time_of_day_ms(text: &str) -> Option<i64> {
    let zone_at = text.find(['Z', 'z', '+', '-']).unwrap_or(text.len());
    let (clock, zone) = text.split_at(zone_at);
    let parts: Vec<&str> = clock.split(':').collect();
    let (hour, minute, second) = match parts.as_slice() {
        [hour, minute] => (*hour, *minute, "00"),
        [hour, minute, second] => (*hour, *minute, *second),
        _ => return None,
    };
    let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths: i64 = format!("{fraction}00").get(..3)?.parse().ok()?;
    let (hour, minute, second) = (digits(hour, 2)?, digits(minute, 2)?, digits(second, 2)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let east = match zone {
        "" | "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone[1..].split_once(':')?;
            let minutes = digits(hours, 2)? * 60 + digits(minutes, 2)?;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    Some(((hour * 60 + minute - east) * 60 + second) * 1_000 + thousandths)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let leaps = |before: i64| (before - 1) / 4 - (before - 1) / 100 + (before - 1) / 400;
    let years = (year - 1970) * 365 + leaps(year) - leaps(1970);
    years + (1..month).map(|month| days_of(year, month)).sum::<i64>() + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        let read = ["90s", "15m", "1h30m", "7d", "250ms", " 1d12h "].map(|text| duration_ms(text).unwrap());
        assert_eq!(read, [90_000, 900_000, 5_400_000, 604_800_000, 250, 129_600_000]);
        for wrong in ["", "5", "h", "1w", "-1h", "1.5h", "99999999999999999999s", "9223372036854775807d"] {
            assert!(duration_ms(wrong).unwrap_err().contains("is no duration"), "{wrong}");
        }
    }

    #[test]
    fn times_are_read_with_and_without_a_zone() {
        let at = |text| datetime_ms(text).unwrap();
        assert_eq!((at("1970-01-01"), at("1970-01-01T00:00:00.001Z")), (0, 1));
        assert_eq!(at("2000-02-29 12:00"), 951_825_600_000);
        assert_eq!(at("2026-11-21T19:00:00Z"), 1_795_287_600_000);
        assert_eq!(at("2026-11-21T20:00:00+01:00"), at("2026-11-21T13:30:00-05:30"));
        assert_eq!(at("2026-11-22T00:30:00+01:00"), at("2026-11-21T23:30:00"));
        assert_eq!(at("1795287600000"), 1_795_287_600_000);
        for wrong in
            ["", "yesterday", "2026-13-01", "2026-02-29", "2026-1-1", "2026-11-21T24:00", "2026-11-21T10:00:00."]
        {
            assert!(datetime_ms(wrong).unwrap_err().contains("is no time"), "{wrong}");
        }
    }

    #[test]
    fn a_time_that_is_shown_is_read_as_the_same() {
        assert_eq!(shown(1_795_287_600_000), "2026-11-21 19:00:00");
        for day in (0..30_000).step_by(13) {
            let at_ms = day * MS_PER_DAY + 3_661_000;
            assert_eq!(datetime_ms(&shown(at_ms)), Ok(at_ms));
        }
    }

    #[test]
    fn ages_have_two_units_at_most() {
        let shown = [0, 59_999, 61_000, 7_380_000, 435_600_000].map(age);
        assert_eq!(shown, ["0s", "59s", "1m 01s", "2h 03m", "5d 01h"]);
    }
}
