//! Images as a model wants them: decoded, resized, normalised. Knows files and pixels; not models. An image comes from
//! anywhere: its size is bounded before it is decoded.

use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, error::DecodingError,
    imageops::FilterType,
};
use ir::{Filter, Image};
use std::{
    io::Cursor,
    path::{Path, PathBuf},
};

/// Longest file, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// Longest side, in pixels.
const MAX_SIDE: u32 = 16_384;

/// Most memory that decoding may take, in bytes.
const MAX_MEMORY: u64 = 512 << 20;

/// Why a file is no image that a model can see.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// It cannot be read, or is too long.
    #[error("{}: {why}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The reason.
        why: String,
    },
    /// It is damaged, too large, or of another format.
    #[error(
        "{}: is no image that can be read: {source}; PNG, JPEG, WebP, GIF and BMP can, of at most {MAX_SIDE} pixels a side",
        file.display()
    )]
    Image {
        /// The file.
        file: PathBuf,
        /// What the decoder says.
        source: ImageError,
    },
}

/// The pixels of a file as `[channels, height, width]`, resized and normalised.
///
/// # Errors
/// The file cannot be read, or is no image of a size that is decoded.
pub fn picture(file: &Path, form: &Image) -> Result<Vec<f32>, PictureError> {
    let unread = |why: String| PictureError::File {
        file: file.into(),
        why,
    };
    let length = std::fs::metadata(file)
        .map_err(|e| unread(e.to_string()))?
        .len();
    if length > MAX_BYTES {
        return Err(unread(format!(
            "is {length} bytes long; at most {MAX_BYTES} are read"
        )));
    }
    let bytes = std::fs::read(file).map_err(|e| unread(e.to_string()))?;
    let image = decode(&bytes).map_err(|source| PictureError::Image {
        file: file.into(),
        source,
    })?;
    Ok(normalised(&image, form))
}

/// Upright, as a camera says that it was held.
fn decode(bytes: &[u8]) -> Result<DynamicImage, ImageError> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    if reader.format() == Some(ImageFormat::Jpeg) && !ends(bytes) {
        let why = "unexpected end of file";
        let jpeg = ImageFormat::Jpeg.into();
        return Err(ImageError::Decoding(DecodingError::new(jpeg, why)));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    limits.reserve(decoder.total_bytes())?;
    decoder.set_limits(limits)?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Whether a JPEG goes on to its end: its decoder makes up what is missing.
fn ends(mut jpeg: &[u8]) -> bool {
    // Segments say how long they are, up to the scans, in whose data no marker can be.
    while let Some(at) = jpeg.iter().position(|byte| *byte == 0xff) {
        jpeg = &jpeg[at..];
        let skipped = match *jpeg {
            [_, 0xda, ..] => return jpeg.windows(2).any(|marker| marker == [0xff, 0xd9]),
            // Neither the start of the image nor a byte that fills has a length.
            [_, 0xd8 | 0xff, ..] | [_] => 1,
            [_, _, high, low, ..] => 2 + usize::from(u16::from_be_bytes([high, low])),
            _ => 2,
        };
        jpeg = jpeg.get(skipped..).unwrap_or_default();
    }
    false
}

/// Colours without transparency, as the reference converts them; resized in whole numbers from 0 to 255, as it does.
fn normalised(image: &DynamicImage, form: &Image) -> Vec<f32> {
    let filter = match form.filter {
        Filter::Nearest => FilterType::Nearest,
        Filter::Lanczos => FilterType::Lanczos3,
        Filter::Bilinear => FilterType::Triangle,
        Filter::Bicubic => FilterType::CatmullRom,
    };
    let (width, height) = (form.width as u32, form.height as u32);
    let mut colours = image.to_rgb8();
    if colours.dimensions() != (width, height) {
        colours = image::imageops::resize(&colours, width, height, filter);
    }
    let scale = form.scale.get();
    let channels = form.mean.iter().zip(&form.std).enumerate();
    channels
        .flat_map(|(c, (mean, std))| {
            let (mean, std) = (mean.get(), std.get());
            let pixels = colours.pixels();
            pixels.map(move |p| ((f64::from(p.0[c]) * scale - mean) / std) as f32)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(side: usize) -> Image {
        Image {
            height: side,
            width: side,
            channels: 3,
            patch: side,
            filter: Filter::Bilinear,
            scale: (1.0 / 255.0).into(),
            mean: vec![0.5.into(); 3],
            std: vec![0.5.into(); 3],
        }
    }

    /// A file of this content, read as an image of `side` pixels.
    fn read(content: &[u8], side: usize) -> Result<Vec<f32>, PictureError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        picture(file.path(), &form(side))
    }

    fn png(image: &image::RgbImage) -> Vec<u8> {
        let mut out = Cursor::new(vec![]);
        image.write_to(&mut out, image::ImageFormat::Png).unwrap();
        out.into_inner()
    }

    #[test]
    fn pixels_are_scaled_channel_by_channel() {
        let image =
            image::RgbImage::from_fn(2, 2, |x, y| image::Rgb([255 * x as u8, 0, 51 * y as u8]));
        let found = read(&png(&image), 2).unwrap();
        let expected = [
            -1.0, 1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -0.6, -0.6,
        ];
        assert!(
            found
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?}"
        );
        // One colour stays that colour whatever the size.
        let image = image::RgbImage::from_pixel(7, 3, image::Rgb([255, 0, 255]));
        let found = read(&png(&image), 4).unwrap();
        assert!(
            found[..16].iter().chain(&found[32..]).all(|x| *x == 1.0),
            "{found:?}"
        );
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let check = |content: &[u8], expected: &str| {
            let error = read(content, 2).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(b"no image", "no image that can be read");
        check(&[], "no image that can be read");
        let whole = png(&image::RgbImage::from_pixel(64, 64, image::Rgb([1, 2, 3])));
        check(&whole[..whole.len() / 2], "no image that can be read");
        // A header that claims more pixels than are decoded.
        let mut huge = whole;
        huge[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        check(&huge, "no image that can be read");
        assert!(picture(Path::new("missing.png"), &form(2)).is_err());
    }
}
