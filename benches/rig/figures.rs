//! Figures over many rounds.

/// Limit of a slice: a connection is idle during the slices of other contenders, and servers close idle connections.
pub const SLICE_SECONDS: std::ops::RangeInclusive<f64> = 0.01..=10.0;

/// Differences below this share mean nothing: one program measured twice differs by as much.
pub const SAME: f64 = 0.03;

/// The value that `share` of the values do not exceed.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Slower or faster only when the median and the quantile on the other side both say so.
pub fn verdict(ratios: &[f64]) -> &'static str {
    let middle = median(ratios);
    if middle > 1.0 + SAME && quantile(ratios, 0.2) > 1.0 + SAME {
        "slower"
    } else if middle < 1.0 - SAME && quantile(ratios, 0.8) < 1.0 - SAME {
        "faster"
    } else if (1.0 - SAME..=1.0 + SAME).contains(&middle) {
        "same"
    } else {
        "unclear"
    }
}

/// The difference of two runs, at least 0: noise may bring it just below zero.
pub fn unsigned(count: f64) -> f64 {
    count.max(0.0)
}
