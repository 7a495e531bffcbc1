//! Text on a framebuffer. It never scrolls, for reading a framebuffer back is slow beyond words: after the last line comes
//! the first again, and the line after the latest is kept blank.

use font8x8::legacy::BASIC_LEGACY;

/// Pixels of a glyph, as the font has it.
const GLYPH: usize = 8;
/// Columns of the screen from which glyphs are drawn twice as large, and so on.
const LARGE_FROM: u32 = 1920;
/// The largest scale.
const MOST_SCALE: usize = 4;
/// Light grey on black; red, green and blue are alike, so their order does not matter.
const INK: u32 = 0x00c0_c0c0;

/// A framebuffer of 32-bit pixels.
pub trait Pixels {
    /// Draws pixels from column `x` of line `y` on. What lies outside is not drawn.
    fn draw(&mut self, x: u32, y: u32, pixels: &[u32]);
}

/// Text on a framebuffer.
#[derive(Debug)]
pub struct Screen<P> {
    pixels: P,
    /// How much larger than in the font glyphs are; twice that in height.
    scale: usize,
    columns: u32,
    rows: u32,
    column: u32,
    row: u32,
    /// Within an escape sequence, which is not shown.
    escape: bool,
}

impl<P: Pixels> Screen<P> {
    /// A screen of `width` times `height` pixels; `None` where no glyph fits.
    pub fn new(pixels: P, width: u32, height: u32) -> Option<Self> {
        let scale = (1 + width / LARGE_FROM).min(MOST_SCALE as u32);
        let cell = scale * GLYPH as u32;
        let (columns, rows) = (width / cell, height / (2 * cell));
        if columns == 0 || rows == 0 {
            return None;
        }
        let scale = scale as usize;
        let mut screen = Self { pixels, scale, columns, rows, column: 0, row: 0, escape: false };
        screen.clear(0);
        screen.clear(1);
        Some(screen)
    }

    /// Shows bytes: ASCII, line ends, tabulators and backspaces. Escape sequences are left out.
    pub fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                // The letter ends the sequence (ECMA-48, 5.4); its bracket does not.
                _ if self.escape => self.escape = !byte.is_ascii_alphabetic(),
                0x1b => self.escape = true,
                b'\n' => self.next_row(),
                b'\r' => self.column = 0,
                b'\t' => self.column = (self.column / 8 + 1) * 8,
                0x08 => self.column = self.column.saturating_sub(1),
                b' '..=b'~' => self.put(byte),
                0x80.. => self.put(b'?'),
                _ => {}
            }
        }
    }

    fn put(&mut self, byte: u8) {
        if self.column >= self.columns {
            self.next_row();
        }
        let rows = BASIC_LEGACY.get(usize::from(byte)).copied().unwrap_or_default();
        let size = self.scale * GLYPH;
        let (x, mut y) = (self.column * size as u32, self.row * 2 * size as u32);
        for bits in rows {
            let mut line = [0; GLYPH * MOST_SCALE];
            for (at, pixel) in line.iter_mut().take(size).enumerate() {
                *pixel = if bits >> (at / self.scale) & 1 != 0 { INK } else { 0 };
            }
            for _ in 0..2 * self.scale {
                self.pixels.draw(x, y, line.get(..size).unwrap_or_default());
                y += 1;
            }
        }
        self.column += 1;
    }

    fn next_row(&mut self) {
        self.column = 0;
        self.row = (self.row + 1) % self.rows;
        self.clear((self.row + 1) % self.rows);
    }

    fn clear(&mut self, row: u32) {
        let cell = (self.scale * GLYPH) as u32;
        if row >= self.rows || self.rows == 1 && row != self.row {
            return;
        }
        let blank = [0; GLYPH * MOST_SCALE];
        for y in row * 2 * cell..(row + 1) * 2 * cell {
            for column in 0..self.columns {
                self.pixels.draw(column * cell, y, blank.get(..cell as usize).unwrap_or_default());
            }
        }
    }
}
