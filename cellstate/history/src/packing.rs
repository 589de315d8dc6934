//! Compressing values as a whole, before they are stored: once, and not again whenever tables are merged.
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

/// Bytes that a compressed one can stand for at most: LZ4 adds at most 255 to the length of a match with each.
const EXPANDED_MOST: usize = 255;

/// What no message begins with, as there is no field 0: images that begin so are compressed.
const PACKED: u8 = 0;
/// Nor does one with what is below: such an image is in little room already, and stored as it is.
const MESSAGES_BEGIN: u8 = 8;
/// Smaller images are not worth it.
const PACKED_LEAST: usize = 128;

/// Bytes, compressed.
pub(crate) fn compressed(bytes: &[u8]) -> Vec<u8> {
    lz4_flex::compress_prepend_size(bytes)
}

/// Compressed bytes as they were before, where those are at most so many.
pub(crate) fn expanded(value: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    let (bytes, rest) = lz4_flex::block::uncompressed_size(value).map_err(|error| error.to_string())?;
    // What is claimed is not believed: room is made for as much as these bytes can become, and not more.
    let most = bytes_max.min(rest.len().saturating_mul(EXPANDED_MOST));
    if bytes > most {
        return Err(format!("it claims to have {bytes} bytes, and has at most {most}"));
    }
    lz4_flex::decompress(rest, bytes).map_err(|error| error.to_string())
}

/// Bytes before compressed ones: the mark, and how many they were.
const HEAD_BYTES: usize = 5;

/// Compresses page images, one after the other: most are small, and a table for each of them would take longer than its compression.
#[derive(Default)]
pub(crate) struct Packer {
    table: CompressTable,
}

impl Packer {
    /// Appends a page image as it is stored: compressed where that pays.
    pub(crate) fn pack(&mut self, image: &[u8], out: &mut Vec<u8>) {
        let must = image.first() == Some(&PACKED);
        let begin = out.len();
        let is_narrow = image.first().is_some_and(|first| (PACKED + 1..MESSAGES_BEGIN).contains(first));
        if (image.len() >= PACKED_LEAST && !is_narrow) || must {
            out.push(PACKED);
            out.extend_from_slice(&u32::try_from(image.len()).expect("images have a bound").to_le_bytes());
            out.resize(begin + HEAD_BYTES + get_maximum_output_size(image.len()), 0);
            let packed = compress_into_with_table(image, &mut out[begin + HEAD_BYTES..], &mut self.table);
            let packed = HEAD_BYTES + packed.expect("there is room for the most that it can become");
            out.truncate(begin + packed);
            if packed < image.len() || must {
                return;
            }
            out.truncate(begin);
        }
        out.extend_from_slice(image);
    }
}

/// A stored page image as it was given; `None` if it is that already.
pub(crate) fn unpacked(stored: &[u8], bytes_max: usize) -> Option<Result<Vec<u8>, String>> {
    let (_, value) = stored.split_first().filter(|(first, _)| **first == PACKED)?;
    Some(expanded(value, bytes_max))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn images_are_unpacked_as_they_were_packed() {
        let random: Vec<u8> = (0_u32..4096).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2] | 1).collect();
        let large = vec![9; 70_000];
        let images = [vec![], vec![0], vec![0; 5000], large, vec![8; 5000], vec![8, 3, 0], random];
        let mut packer = Packer::default();
        for image in images {
            let mut stored = vec![7; 3];
            packer.pack(&image, &mut stored);
            let stored = &stored[3..];
            assert!(stored.len() <= image.len().max(16));
            let found = unpacked(stored, 1 << 20).map(Result::unwrap).unwrap_or_else(|| stored.to_vec());
            assert_eq!(found, image);
        }
    }

    #[test]
    fn what_is_in_little_room_already_is_stored_as_it_is() {
        let stored = |image: &[u8]| {
            let mut stored = Vec::new();
            Packer::default().pack(image, &mut stored);
            stored
        };
        let [narrow, message] = [7, 8].map(|first| [&[first][..], &[3; 5000]].concat());
        assert_eq!(stored(&narrow), narrow);
        assert!(unpacked(&narrow, 1 << 20).is_none() && stored(&message).len() < 100);
    }

    #[test]
    fn an_image_that_claims_more_than_it_can_have_gets_no_room() {
        let mut claims = vec![PACKED];
        claims.extend_from_slice(&u32::MAX.to_le_bytes());
        claims.push(0);
        assert!(unpacked(&claims, usize::MAX).unwrap().is_err());
        assert!(unpacked(&[PACKED], 100).unwrap().is_err());
        let mut packed = Vec::new();
        Packer::default().pack(&[9; 1000], &mut packed);
        assert!(unpacked(&packed, 999).unwrap().is_err());
    }
}
