//! Compressing values as a whole, before they are stored: once, and not again whenever tables are merged.
use std::borrow::Cow;

/// Bytes that a compressed one can stand for at most: LZ4 adds at most 255 to the length of a match with each.
const EXPANDED_MOST: usize = 255;

/// What no message begins with, as there is no field 0: images that begin so are compressed.
const PACKED: u8 = 0;
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

/// A page image as it is stored: compressed where that pays.
pub(crate) fn packed(image: &[u8]) -> Cow<'_, [u8]> {
    let must = image.first() == Some(&PACKED);
    if image.len() < PACKED_LEAST && !must {
        return image.into();
    }
    let mut packed = vec![PACKED];
    packed.extend_from_slice(&compressed(image));
    if packed.len() < image.len() || must { packed.into() } else { image.into() }
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
        let images = [vec![], vec![0], vec![0; 5000], vec![8; 5000], vec![8, 3, 0], random];
        for image in images {
            let stored = packed(&image);
            assert!(stored.len() <= image.len().max(16));
            let found = unpacked(&stored, 1 << 20).map(Result::unwrap).unwrap_or_else(|| stored.to_vec());
            assert_eq!(found, image);
        }
    }

    #[test]
    fn an_image_that_claims_more_than_it_can_have_gets_no_room() {
        let mut claims = vec![PACKED];
        claims.extend_from_slice(&u32::MAX.to_le_bytes());
        claims.push(0);
        assert!(unpacked(&claims, usize::MAX).unwrap().is_err());
        assert!(unpacked(&[PACKED], 100).unwrap().is_err());
        assert!(unpacked(&packed(&[7; 1000]), 999).unwrap().is_err());
    }
}
