//! Formulas as MathML, from a short notation that is a small part of TeX's:
//!
//! | notation | meaning |
//! |---|---|
//! | `x_i`, `x^2`, `x_i^2`, `x_{ij}` | indices |
//! | `\frac{a}{b}`, `\sqrt{a}` | fractions and roots |
//! | `\sum_{i}`, `\prod_{i}` | sums and products, the index below |
//! | `\text{words}`, `\bf{x}` | words; bold |
//! | `\ ` | a space |
//!
//! Greek letters and signs are written as they are. Everything else is escaped.

use std::iter::Peekable;
use std::str::Chars;

/// The formula as a `math` element, shown in a line of its own.
pub fn mathml(text: &str) -> String {
    let mut chars = text.chars().peekable();
    let body = row(&mut chars, None);
    format!("<math display=\"block\" xmlns=\"http://www.w3.org/1998/Math/MathML\">{body}</math>")
}

type Source<'a> = Peekable<Chars<'a>>;

/// Everything up to `end`, as one row.
fn row(chars: &mut Source<'_>, end: Option<char>) -> String {
    let mut out = String::new();
    while let Some(c) = chars.peek().copied() {
        if Some(c) == end {
            chars.next();
            break;
        }
        if c.is_whitespace() {
            chars.next();
            continue;
        }
        out += &scripted(chars);
    }
    format!("<mrow>{out}</mrow>")
}

/// An atom with its indices.
fn scripted(chars: &mut Source<'_>) -> String {
    let (base, below) = atom(chars);
    let (mut sub, mut sup) = (None, None);
    while let Some(c) = chars.peek().copied().filter(|c| "_^".contains(*c)) {
        chars.next();
        let script = atom(chars).0;
        if c == '_' { sub = Some(script) } else { sup = Some(script) }
    }
    match (sub, sup, below) {
        (None, None, _) => base,
        (Some(b), None, true) => format!("<munder>{base}{b}</munder>"),
        (None, Some(p), true) => format!("<mover>{base}{p}</mover>"),
        (Some(b), Some(p), true) => format!("<munderover>{base}{b}{p}</munderover>"),
        (Some(b), None, false) => format!("<msub>{base}{b}</msub>"),
        (None, Some(p), false) => format!("<msup>{base}{p}</msup>"),
        (Some(b), Some(p), false) => format!("<msubsup>{base}{b}{p}</msubsup>"),
    }
}

/// One letter, number, sign, group or command; true if its indices stand below and above.
fn atom(chars: &mut Source<'_>) -> (String, bool) {
    let Some(c) = chars.next() else { return ("<mrow></mrow>".into(), false) };
    let element = match c {
        '{' => row(chars, Some('}')),
        '\\' => return command(chars),
        c if c.is_ascii_digit() => {
            let mut number = c.to_string();
            while let Some(d) = chars.peek().filter(|d| d.is_ascii_digit() || **d == '.') {
                number.push(*d);
                chars.next();
            }
            format!("<mn>{number}</mn>")
        }
        c if c.is_alphabetic() => format!("<mi>{c}</mi>"),
        '-' => "<mo>−</mo>".into(),
        c if "()[]|".contains(c) => format!("<mo stretchy=\"false\">{c}</mo>"),
        c => format!("<mo>{}</mo>", escaped(&c.to_string())),
    };
    (element, false)
}

fn command(chars: &mut Source<'_>) -> (String, bool) {
    let mut name = String::new();
    while let Some(c) = chars.peek().filter(|c| c.is_ascii_alphabetic()) {
        name.push(*c);
        chars.next();
    }
    let element = match name.as_str() {
        "frac" => {
            let (over, under) = (atom(chars).0, atom(chars).0);
            format!("<mfrac>{over}{under}</mfrac>")
        }
        "sqrt" => format!("<msqrt>{}</msqrt>", atom(chars).0),
        "sum" => return ("<mo>∑</mo>".into(), true),
        "prod" => return ("<mo>∏</mo>".into(), true),
        // Blanks at its ends would vanish.
        "text" => format!("<mtext>{}</mtext>", escaped(&words(chars)).replace(' ', "\u{a0}")),
        "bf" => format!("<mi style=\"font-weight:bold\">{}</mi>", escaped(&words(chars))),
        "" => {
            chars.next();
            "<mspace width=\"1em\"></mspace>".into()
        }
        other => format!("<mi mathvariant=\"normal\">{other}</mi>"),
    };
    (element, false)
}

/// The characters of a group, as they are.
fn words(chars: &mut Source<'_>) -> String {
    chars.next_if_eq(&'{');
    let mut text = String::new();
    for c in chars.by_ref().take_while(|c| *c != '}') {
        text.push(c);
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(text: &str) -> String {
        let all = mathml(text);
        let all = all.strip_suffix("</mrow></math>").unwrap();
        all.split_once("<mrow>").unwrap().1.into()
    }

    #[test]
    fn notation_becomes_elements() {
        assert_eq!(inside("x_i"), "<msub><mi>x</mi><mi>i</mi></msub>");
        assert_eq!(
            inside("A_{ij}^2"),
            "<msubsup><mi>A</mi><mrow><mi>i</mi><mi>j</mi></mrow><mn>2</mn></msubsup>"
        );
        assert_eq!(
            inside(r"\sum_{j}\frac{1}{\sqrt{d}}"),
            "<munder><mo>∑</mo><mrow><mi>j</mi></mrow></munder>\
             <mfrac><mrow><mn>1</mn></mrow><mrow><msqrt><mrow><mi>d</mi></mrow></msqrt></mrow></mfrac>"
        );
        assert_eq!(
            inside(r"\text{a & b}<12.5"),
            "<mtext>a\u{a0}&amp;\u{a0}b</mtext><mo>&lt;</mo><mn>12.5</mn>"
        );
        assert_eq!(inside(r"\softmax(x)-α").matches("<m").count(), 6);
    }

    #[test]
    fn anything_ends_and_stays_text() {
        for odd in ["", "{", "x_", r"\", r"\frac", "}}", "^^^", r"\text{", "<script>"] {
            let out = mathml(odd);
            assert!(out.ends_with("</math>") && !out.contains("<script"), "{odd}: {out}");
            assert_eq!(out.matches("<mrow").count(), out.matches("</mrow").count(), "{odd}: {out}");
        }
    }
}
