//! Positions in a cell: Jupyter counts code points, Rust bytes.

/// The byte offset of a position in code points.
pub(crate) fn byte_offset(code: &str, code_points: usize) -> usize {
    code.char_indices()
        .nth(code_points)
        .map_or(code.len(), |(at, _)| at)
}

/// The other way round.
pub(crate) fn code_points(code: &str, byte_offset: usize) -> usize {
    code.char_indices()
        .take_while(|(at, _)| *at < byte_offset)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_code_points() {
        let code = "e\u{301}é😀x";
        assert_eq!(byte_offset(code, 4), code.len() - 1);
        assert_eq!(code_points(code, code.len() - 1), 4);
        assert_eq!(byte_offset(code, 99), code.len());
    }
}
