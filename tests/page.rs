//! The page of a survey as a browser shows it: marks are where their numbers are, in their colors, and the page fits a narrow
//! window, too. Where no browser is on the path, that is said and nothing is tested.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use image::RgbImage;
use satura::budget::{Estimate, Kind, Point, Row, Survey, page};
use std::{fs, path::Path, process::Command};
use tempfile::TempDir;

const BROWSERS: [&str; 5] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "chrome",
    "chrome-headless-shell",
];

/// The first browser on the path that starts.
fn browser() -> Option<&'static str> {
    let starts = |name: &&str| {
        let version = Command::new(name).arg("--version").output();
        version.is_ok_and(|v| v.status.success())
    };
    BROWSERS.into_iter().find(starts)
}

fn point(name: &str, kind: Kind, ms: f64, kl: f64) -> Point {
    Point {
        name: name.into(),
        kind,
        latency: ms * 1e-3,
        predicted_latency: ms * 1.1e-3,
        kl: Estimate {
            mean: kl,
            half: kl / 10.0,
        },
        predicted_kl: kl * 1.2,
        bytes: (ms * 2e7) as u64,
        read: (ms * 1.5e7) as u64,
        forms: vec!["q4/32".into()],
    }
}

fn survey() -> Survey {
    let row = |layer: usize, part: &str| Row {
        weight: format!("model.layers.{layer}.{part}.weight"),
        layer: format!("model.layers.{layer}"),
        shape: [64, 64],
        form: "bf16".into(),
        method: "stored".into(),
        bytes: 8192,
        kl: 0.0,
        sensitivity: Some(1e-4 * (1 + layer) as f64),
        seconds: [1e-5; 2],
        offers: 3,
    };
    Survey {
        step: "one token".into(),
        read_per_second: 2e10,
        rank_correlation: Some(0.99),
        points: vec![
            point("fast", Kind::Uniform, 0.3, 4e-2),
            point("kl~1e-2", Kind::Mixed, 0.5, 1e-2),
            point("drawn", Kind::Random, 0.9, 5e-3),
            point("kl~1e-3", Kind::Mixed, 1.1, 1e-3),
            point("true", Kind::Uniform, 1.3, 2e-4),
            point("original", Kind::Original, 1.6, 0.0),
        ],
        weights: [0, 1]
            .into_iter()
            .flat_map(|l| ["q", "down"].map(|p| row(l, p)))
            .collect(),
    }
}

/// What the browser shows of a file in a window of that size.
fn picture(browser: &str, file: &Path, [width, height]: [u32; 2]) -> RgbImage {
    let dir = TempDir::new().unwrap();
    let shot = dir.path().join("shot.png");
    let run = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
        ])
        .arg(format!("--user-data-dir={}", dir.path().display()))
        .arg(format!("--window-size={width},{height}"))
        .arg(format!("--screenshot={}", shot.display()))
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{browser}: {told}");
    let bytes =
        fs::read(&shot).unwrap_or_else(|e| panic!("{browser} took no picture: {e}: {told}"));
    let picture = image::load_from_memory(&bytes).unwrap().to_rgb8();
    assert_eq!([picture.width(), picture.height()], [width, height]);
    picture
}

/// Of each plot its marks: class, and where in the plot's own units.
fn marks(html: &str) -> Vec<Vec<(String, [f64; 2])>> {
    let plots = html.split("<svg ").skip(1);
    let of = |plot: &str| {
        let plot = plot.split("</svg>").next().unwrap();
        let circles = plot.split("<circle ").skip(1).map(|circle| {
            let value = |name: &str| {
                let (_, rest) = circle.split_once(&format!("{name}=\"")).unwrap();
                rest.split('"').next().unwrap().to_string()
            };
            let number = |name| value(name).parse().unwrap();
            (value("class"), [number("cx"), number("cy")])
        });
        circles.collect()
    };
    plots.map(of).collect()
}

fn color(class: &str) -> [u8; 3] {
    match class {
        "original" => [0x1b, 0x1f, 0x24],
        "uniform" => [0xc4, 0x52, 0x1d],
        "mixed" => [0x0a, 0x66, 0xc2],
        "random" => [0x8a, 0x94, 0xa0],
        other => panic!("no color of {other}"),
    }
}

/// Whether the picture has the color there.
fn has(picture: &RgbImage, [x, y]: [f64; 2], color: [u8; 3]) -> bool {
    let (x, y) = (x.round() as u32, y.round() as u32);
    let found = picture.get_pixel_checked(x, y);
    found.is_some_and(|p| p.0.iter().zip(color).all(|(a, b)| a.abs_diff(b) <= 12))
}

#[test]
fn the_page_shows_its_marks_where_they_are() {
    let Some(browser) = browser() else {
        eprintln!(
            "no browser on the path ({}); not tested",
            BROWSERS.join(", ")
        );
        return;
    };
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("page.html");
    let html = page(&survey(), "a model");
    fs::write(&file, &html).unwrap();
    let plots = marks(&html);
    assert_eq!(plots.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 6, 6]);
    // As wide as the page gets, and a telephone, where plots take all but margins of a rem.
    for (window, width) in [([1000, 2600], 736.0), ([400, 2600], 368.0)] {
        let picture = picture(browser, &file, window);
        let (left, scale) = ((f64::from(window[0]) - width) / 2.0, width / 640.0);
        // The first line at which all marks of a plot have their colors is where it begins.
        let mut top = 0.0;
        for (i, marks) in plots.iter().enumerate() {
            let fits = |top: f64| {
                marks.iter().all(|(class, [x, y])| {
                    has(&picture, [left + x * scale, top + y * scale], color(class))
                })
            };
            let from = (0..window[1])
                .map(f64::from)
                .find(|y| *y >= top && fits(*y));
            top = from.unwrap_or_else(|| {
                panic!("in a window of {window:?} no place shows the marks of plot {i} below {top}")
            });
            // The next one is below it.
            top += 360.0 * scale;
        }
        // Tables follow, and then nothing: the page is not cut off.
        let line = |y: u32| (0..window[0]).any(|x| picture.get_pixel(x, y).0 != [255; 3]);
        assert!((top as u32..window[1]).any(line), "nothing below the plots");
    }
}
