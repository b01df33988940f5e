//! Foreign bytes, made safe to print; and the escapes that the kernel uses in `/proc`.

use std::fmt::Write as _;

/// Renders bytes for a terminal or a log, unambiguously.
///
/// Printable Unicode is kept. Control characters, invalid UTF-8 and characters that reorder or hide
/// text (such as the bidirectional overrides) become `\n`, `\x1b`, `\u{202e}`; a backslash is
/// doubled, so two different names never look the same.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            push_escaped(&mut out, character);
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

fn push_escaped(out: &mut String, character: char) {
    match character {
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        '\r' => out.push_str("\\r"),
        '\\' => out.push_str("\\\\"),
        c if c.is_ascii_control() => {
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        }
        c if is_treacherous(c) => {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
        c => out.push(c),
    }
}

/// Characters that are controls, that reorder what is around them, or that are invisible.
///
/// The invisible ones are those of Unicode's `Default_Ignorable_Code_Point` that matter in names:
/// zero-width characters, bidirectional controls, variation selectors are left (emoji use them).
fn is_treacherous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{e007f}')
}

/// Renders bytes as [`escape`] does, in double quotes.
pub fn quote(bytes: &[u8]) -> String {
    format!("\"{}\"", escape(bytes).replace('"', "\\\""))
}

/// A size in binary units, with one decimal below ten.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut scale = 1024_u64;
    while unit + 1 < UNITS.len() && bytes / scale >= 1024 {
        unit += 1;
        scale *= 1024;
    }
    let whole = bytes / scale;
    let tenth = (bytes % scale) * 10 / scale;
    if whole < 10 {
        format!("{whole}.{tenth} {}", UNITS[unit])
    } else {
        format!("{whole} {}", UNITS[unit])
    }
}

/// Decodes the octal escapes that the kernel writes in `/proc` (`\040` is a space).
///
/// See `proc_pid_mountinfo(5)`. A backslash that is not followed by three octal digits of a byte
/// stays as it is.
pub fn unescape_octal(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if first == b'\\' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 1023, 1024, 1536, 10 << 10, (1 << 20) - 1, 3 << 30, u64::MAX].map(size);
        assert_eq!(
            sizes,
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "10 KiB", "1023 KiB", "3.0 GiB", "16383 PiB"]
        );
    }
    use proptest::prelude::*;

    #[test]
    fn escapes_what_a_terminal_would_interpret() {
        let cases: &[(&[u8], &str)] = &[
            (b"", ""),
            (b"/var/lib", "/var/lib"),
            ("Müller 日本 🐚".as_bytes(), "Müller 日本 🐚"),
            (b"a\nb\tc\rd", r"a\nb\tc\rd"),
            (b"\x1b[2J\x07\x7f\0", r"\x1b[2J\x07\x7f\x00"),
            (b"back\\slash", r"back\\slash"),
            (b"\xff\xfe!", r"\xff\xfe!"),
            (b"caf\xc3", r"caf\xc3"),
            ("\u{202e}gpj.exe".as_bytes(), r"\u{202e}gpj.exe"),
            ("\u{85}\u{9b}31m".as_bytes(), r"\u{85}\u{9b}31m"),
            ("zero\u{200b}width".as_bytes(), r"zero\u{200b}width"),
            ("\u{feff}bom".as_bytes(), r"\u{feff}bom"),
            (b"say \"hi\"", "say \"hi\""),
        ];
        for (bytes, expected) in cases {
            assert_eq!(escape(bytes), *expected);
        }
        assert_eq!(quote(b"say \"hi\"\n"), r#""say \"hi\"\n""#);
    }

    #[test]
    fn decodes_octal() {
        let cases: &[(&[u8], &[u8])] = &[
            (br"/a\040b", b"/a b"),
            (br"\011\012\134\043", b"\t\n\\#"),
            (br"\377", b"\xff"),
            (br"\400", br"\400"),
            (br"end\04", br"end\04"),
            (br"\", br"\"),
            (br"\x41", br"\x41"),
            (br"\134040", br"\040"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(unescape_octal(bytes), *expected);
        }
    }

    proptest! {
        #[test]
        fn escaped_text_is_harmless_and_unambiguous(a: Vec<u8>, b: Vec<u8>) {
            let escaped = escape(&a);
            prop_assert!(!escaped.chars().any(is_treacherous));
            prop_assert_eq!(a == b, escaped == escape(&b));
        }

        #[test]
        fn octal_round_trip(bytes: Vec<u8>) {
            let escaped: Vec<u8> = bytes
                .iter()
                .flat_map(|byte| match byte {
                    b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
                    _ => vec![*byte],
                })
                .collect();
            prop_assert_eq!(unescape_octal(&escaped), bytes);
        }
    }
}
