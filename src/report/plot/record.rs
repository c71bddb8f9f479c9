//! Numbers of figures in JSON, which has no NaN: null is a gap.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is written with gaps.
pub(super) trait Gaps: Clone {
    type Json: Serialize + DeserializeOwned;
    fn json(&self) -> Self::Json;
    fn of(json: Self::Json) -> Self;
}

impl Gaps for f64 {
    type Json = Option<f64>;
    fn json(&self) -> Self::Json {
        Some(*self).filter(|v| v.is_finite())
    }
    fn of(json: Self::Json) -> Self {
        json.unwrap_or(f64::NAN)
    }
}

impl Gaps for (f64, f64) {
    type Json = (Option<f64>, Option<f64>);
    fn json(&self) -> Self::Json {
        (self.0.json(), self.1.json())
    }
    fn of((a, b): Self::Json) -> Self {
        (f64::of(a), f64::of(b))
    }
}

impl Gaps for (f64, f64, f64) {
    type Json = (Option<f64>, Option<f64>, Option<f64>);
    fn json(&self) -> Self::Json {
        (self.0.json(), self.1.json(), self.2.json())
    }
    fn of((a, b, c): Self::Json) -> Self {
        (f64::of(a), f64::of(b), f64::of(c))
    }
}

impl<T: Gaps> Gaps for Vec<T> {
    type Json = Vec<T::Json>;
    fn json(&self) -> Self::Json {
        self.iter().map(T::json).collect()
    }
    fn of(json: Self::Json) -> Self {
        json.into_iter().map(T::of).collect()
    }
}

pub(super) fn serialize<T: Gaps, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    value.json().serialize(to)
}

pub(super) fn deserialize<'de, T: Gaps, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(T::of(T::Json::deserialize(from)?))
}
