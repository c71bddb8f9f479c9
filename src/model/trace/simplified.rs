//! o = softmax(A1) e, e one-hot tokens; v = softmax(A2\[s_q\] · o_i) over i <= q; f = v e.

use super::pass::{Pass, of_head};
use super::{Kind, Points};
use crate::Result;
use popgrad_kernels::Mat;

pub(super) fn points(points: &mut Points) {
    points.embed(points.s);
    points.attention(0, 1, points.s);
    points.attention(1, 1, points.s);
    points.push(None, Kind::Output, &[points.t, points.s]);
    if let Some(last) = points.all.last_mut() {
        last.name = "probs".into();
    }
}

pub(super) fn forward(pass: &mut Pass<'_, '_>) -> Result<Vec<f64>> {
    let (t, s) = (pass.t(), pass.s());
    let e = pass.one_hot(s);
    let a1 = pass.block("A1")?.to_vec();
    let first = pass.pattern(a1)?;
    let mut o = pass.product(of_head(&first, 0, t)?, Mat::new(&e, t, s)?)?;
    pass.see(&mut o);
    let a2 = pass.matrix("A2", s)?;
    let asked = pass.times(&e, a2)?;
    let scores = pass.product(Mat::new(&asked, t, s)?, Mat::new(&o, t, s)?.t())?;
    let second = pass.pattern(scores)?;
    let mut f = pass.product(of_head(&second, 0, t)?, Mat::new(&e, t, s)?)?;
    pass.see(&mut f);
    pass.see(&mut f);
    Ok(f)
}
