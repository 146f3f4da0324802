//! Shares of something as people write them: `6%`, or a fraction up to 1.

/// Reads a share. A number over 1 (or below −1) needs its percent sign: `4` is more likely 4 % than 400 %.
///
/// # Errors
///
/// Says what the text is instead, and asks whether the percentage was meant.
pub fn parse(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let number = |digits: &str| digits.trim_end().parse::<f64>().ok().filter(|value| value.is_finite());
    let value = match text.strip_suffix('%') {
        Some(digits) => number(digits).map(|percent| percent / 100.0),
        None => number(text),
    };
    match value {
        None => Err(format!("`{text}` is not a number; write a share such as 4% or 0.04")),
        Some(value) if value.abs() > 1.0 && !text.ends_with('%') => {
            Err(format!("`{text}` is over 1 without a percent sign; did you mean {text}%?"))
        }
        Some(value) => Ok(value),
    }
}

/// Reads a share that is not negative. Errors as of [`parse`].
pub fn parse_positive(text: &str) -> Result<f64, String> {
    match parse(text)? {
        value if value < 0.0 => Err(format!("`{}` is negative", text.trim())),
        value => Ok(value),
    }
}

/// A share's text: a percentage where that reads back as the same number, else a fraction up to 1.
pub fn show(value: f64) -> String {
    let percent = (value * 1e12).round() / 1e10;
    if percent / 100.0 == value {
        return format!("{percent}%");
    }
    if value.abs() <= 1.0 {
        return value.to_string();
    }
    // Beyond 1 it must be a percentage; the one that reads back is next to the product.
    let product = value * 100.0;
    let near = [product, product.next_up(), product.next_down()];
    format!("{}%", near.into_iter().find(|percent| percent / 100.0 == value).unwrap_or(product))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (text, value) in [("4%", 0.04), ("0.04", 0.04), ("1", 1.0), ("300%", 3.0), (" 6 % ", 0.06), ("-5%", -0.05)]
        {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
        for (text, meant) in [("4", "did you mean 4%?"), ("1.5", "did you mean 1.5%?"), ("-6", "did you mean -6%?")] {
            assert!(parse(text).unwrap_err().contains(meant), "{text}");
        }
        for bad in ["", "%", "x", "nan", "inf%", "1e400", "4 percent"] {
            assert!(parse(bad).unwrap_err().contains("not a number"), "{bad}");
        }
        assert!(parse_positive("-5%").unwrap_err().contains("negative"));
    }

    #[test]
    fn what_is_shown_reads_back() {
        let mut value = 1.0e-3_f64;
        while value < 40.0 {
            // What a percentage can say.
            let share = value * 7.0 / 100.0;
            assert_eq!(parse(&show(share)), Ok(share), "{share}");
            value *= 1.037;
        }
        assert_eq!(
            (show(0.06), show(2.5), show(0.1 + 0.2)),
            ("6%".into(), "250%".into(), "0.30000000000000004".into())
        );
    }
}
