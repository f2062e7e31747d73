//! What happened, on one axis.

use jiff::{SignedDuration, Timestamp};

use super::views::{Lane, Moment};

/// A dot on the axis. Positions are percent of its width, so the picture fits every screen without a script.
#[derive(Clone, Debug, PartialEq)]
pub struct Dot {
    pub x: String,
    pub y: u32,
    pub lane: &'static str,
    pub title: String,
}

/// A time below the axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    pub x: String,
    /// SVG's `text-anchor`, so that the first and last label stay inside.
    pub anchor: &'static str,
    pub label: String,
}

/// One entry of the list under the axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub at: Timestamp,
    /// `10:02:07`, with the day when it differs from the first entry's.
    pub clock: String,
    /// Since the first entry: `+2 min`.
    pub since: String,
    pub lane: &'static str,
    pub title: String,
    pub detail: String,
}

/// The axis and the list.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Timeline {
    pub dots: Vec<Dot>,
    pub ticks: Vec<Tick>,
    pub entries: Vec<Entry>,
}

/// Lays out moments in time order.
pub fn timeline(moments: &[Moment]) -> Timeline {
    let mut moments: Vec<&Moment> = moments.iter().collect();
    moments.sort_by_key(|moment| (moment.at, moment.lane));
    let (Some(first), Some(last)) = (moments.first().map(|moment| moment.at), moments.last().map(|moment| moment.at))
    else {
        return Timeline::default();
    };
    let span = last.duration_since(first).as_secs_f64();
    // Two percent on both sides keep the first and last dot whole.
    let x = |at: Timestamp| match span > 0.0 {
        true => format!("{:.2}%", 2.0 + 96.0 * at.duration_since(first).as_secs_f64() / span),
        false => "50%".to_owned(),
    };
    let dots = moments
        .iter()
        .map(|moment| Dot {
            x: x(moment.at),
            y: row(moment.lane),
            lane: lane_name(moment.lane),
            title: format!("{} {}", clock(moment.at, first), moment.title),
        })
        .collect();
    let quarter = |part: i32| first + SignedDuration::from_secs_f64(span * f64::from(part) / 4.0);
    let tick = |part: i32, anchor| Tick { x: x(quarter(part)), anchor, label: clock(quarter(part), first) };
    let ticks = match span > 0.0 {
        true => vec![tick(0, "start"), tick(2, "middle"), tick(4, "end")],
        false => vec![tick(0, "middle")],
    };
    let entries = moments
        .iter()
        .map(|moment| Entry {
            at: moment.at,
            clock: clock(moment.at, first),
            since: format!("+{}", span_in_words(moment.at.duration_since(first))),
            lane: lane_name(moment.lane),
            title: moment.title.clone(),
            detail: moment.detail.clone(),
        })
        .collect();
    Timeline { dots, ticks, entries }
}

/// A span as people say it: `40 s`, `12 min`, `3 h 5 min`, `2 d`.
pub fn span_in_words(span: SignedDuration) -> String {
    let seconds = span.as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 if seconds % 3600 < 60 => format!("{} h", seconds / 3600),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Time of day in UTC, with the day when it is not `first`'s.
fn clock(at: Timestamp, first: Timestamp) -> String {
    let (day, other) = (at.strftime("%m-%d").to_string(), first.strftime("%m-%d").to_string());
    match day == other {
        true => at.strftime("%H:%M:%S").to_string(),
        false => format!("{day} {}", at.strftime("%H:%M:%S")),
    }
}

fn row(lane: Lane) -> u32 {
    match lane {
        Lane::Change => 14,
        Lane::Signal => 34,
        Lane::Diagnosis => 54,
        Lane::Remedy => 74,
    }
}

fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Change => "change",
        Lane::Signal => "signal",
        Lane::Diagnosis => "diagnosis",
        Lane::Remedy => "remedy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at: &str, lane: Lane) -> Moment {
        Moment { at: at.parse().unwrap(), lane, title: "it".to_owned(), detail: String::new() }
    }

    #[test]
    fn moments_are_ordered_and_stand_where_their_time_is() {
        let laid = timeline(&[
            moment("2026-11-21T10:10:00Z", Lane::Remedy),
            moment("2026-11-21T10:00:00Z", Lane::Change),
            moment("2026-11-21T10:05:00Z", Lane::Signal),
        ]);
        assert_eq!(laid.dots.iter().map(|dot| dot.x.as_str()).collect::<Vec<_>>(), ["2.00%", "50.00%", "98.00%"]);
        assert_eq!(laid.entries[2].since, "+10 min");
        assert_eq!(laid.ticks[1].label, "10:05:00");
    }

    #[test]
    fn one_moment_stands_in_the_middle_and_none_is_no_picture() {
        assert_eq!(timeline(&[moment("2026-11-21T10:00:00Z", Lane::Signal)]).dots[0].x, "50%");
        assert_eq!(timeline(&[]), Timeline::default());
    }

    #[test]
    fn midnight_shows_the_day() {
        let laid =
            timeline(&[moment("2026-11-21T23:59:00Z", Lane::Signal), moment("2026-11-22T00:01:00Z", Lane::Remedy)]);
        assert_eq!(laid.entries[1].clock, "11-22 00:01:00");
    }

    #[test]
    fn spans_are_said_as_people_say_them() {
        for (seconds, words) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3600, "1 h"), (11_100, "3 h 5 min"), (200_000, "2 d")]
        {
            assert_eq!(span_in_words(SignedDuration::from_secs(seconds)), words);
        }
    }
}
