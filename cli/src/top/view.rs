//! What is on the screen, and what keys do.

use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table};

use super::load::{COLUMNS, Flow, LCORE_COLUMNS, Load, figures};
use super::sampler::News;
use crate::show::printable;

/// The column that is sorted by to begin with.
const FIRST: usize = 2;
const KEYS: &str = "q end   ← → column   ↑ ↓ order   PgUp PgDn Home End rows";
const WIDTHS: [u16; 7] = [10, 20, 10, 10, 10, 10, 12];
const LCORE_WIDTHS: [u16; 5] = [10, 7, 6, 8, 10];

/// What is shown, and how.
pub struct View {
    delay: Duration,
    load: Option<Load>,
    /// Why there is nothing newer.
    trouble: Option<String>,
    /// The column that is sorted by.
    column: usize,
    is_descending: bool,
    /// The first row shown.
    first: usize,
    /// Rows that had room last.
    page: usize,
}

/// What comes after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More pictures.
    Go,
    /// Nothing.
    End,
}

impl View {
    /// One that has heard nothing yet.
    pub fn new(delay: Duration) -> Self {
        Self { delay, load: None, trouble: None, column: FIRST, is_descending: true, first: 0, page: 1 }
    }

    /// Takes what there is to show, or why there is nothing.
    pub fn hear(&mut self, news: News) {
        match news {
            Ok(load) => (self.load, self.trouble) = (Some(load), None),
            Err(trouble) => self.trouble = Some(printable(&trouble)),
        }
    }

    /// Does what a key is for.
    pub fn press(&mut self, key: KeyEvent) -> Next {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Next::End,
            KeyCode::Char('q') | KeyCode::Esc => return Next::End,
            KeyCode::Left => self.column = self.column.saturating_sub(1),
            KeyCode::Right => self.column = (self.column + 1).min(COLUMNS.len() - 1),
            KeyCode::Up => self.is_descending = false,
            KeyCode::Down => self.is_descending = true,
            KeyCode::PageUp => self.first = self.first.saturating_sub(self.page),
            KeyCode::PageDown => self.first = self.first.saturating_add(self.page),
            KeyCode::Home => self.first = 0,
            KeyCode::End => self.first = usize::MAX,
            _ => {}
        }
        Next::Go
    }

    /// Draws it. A screen that is too small shows less.
    pub fn draw(&mut self, frame: &mut Frame) {
        let Some(mut load) = self.load.take() else {
            let text = self.trouble.clone().unwrap_or_else(|| format!("measuring for {} s", self.delay.as_secs_f64()));
            let [above, _, below] =
                Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
                    .areas(frame.area());
            frame.render_widget(Line::from(text), above);
            frame.render_widget(Line::from(KEYS).style(Modifier::DIM), below);
            return;
        };
        self.sort(&mut load.functions);
        // Lcores may have a third of the screen.
        let lcores = load.lcores.len().saturating_add(1).min(usize::from(frame.area().height / 3)) as u16;
        let rows = [Constraint::Length(1), Constraint::Length(lcores), Constraint::Fill(1), Constraint::Length(1)];
        let [title, lcores, functions, keys] = Layout::vertical(rows).spacing(1).areas(frame.area());
        frame.render_widget(self.title(&load), title);
        draw_lcores(frame, lcores, &load);
        self.draw_functions(frame, functions, &load.functions);
        frame.render_widget(Line::from(KEYS).style(Modifier::DIM), keys);
        self.load = Some(load);
    }

    fn title(&self, load: &Load) -> Line<'static> {
        if let Some(trouble) = &self.trouble {
            return Line::from(trouble.clone()).style(Modifier::BOLD);
        }
        let [rx_packets, rx_bits, tx_packets, tx_bits, drops] = figures(&load.total());
        let (count, seconds) = (load.functions.len(), load.seconds);
        Line::from(format!(
            "{count} functions over {seconds:.1} s: rx {rx_packets} Mpps {rx_bits} Gbit/s, tx {tx_packets} Mpps {tx_bits} Gbit/s, \
             {drops} drops/s"
        ))
    }

    /// Sorts by the chosen column. What is equal stays as it was told, whichever the order.
    fn sort(&self, functions: &mut [Flow]) {
        functions.sort_by(|a, b| {
            let (id_a, id_b) = ((a.pf, a.vf), (b.pf, b.vf));
            let ordering = match self.column {
                0 => id_a.cmp(&id_b),
                1 => a.name.cmp(&b.name),
                column => a.figures[column - 2].total_cmp(&b.figures[column - 2]),
            };
            let ordering = if self.is_descending { ordering.reverse() } else { ordering };
            ordering.then(id_a.cmp(&id_b))
        });
    }

    fn draw_functions(&mut self, frame: &mut Frame, area: Rect, functions: &[Flow]) {
        self.page = usize::from(area.height.saturating_sub(1)).max(1);
        self.first = self.first.min(functions.len().saturating_sub(self.page));
        let arrow = if self.is_descending { '↓' } else { '↑' };
        let header = COLUMNS.iter().enumerate().map(|(column, name)| {
            let title = if column == self.column { format!("{name}{arrow}") } else { (*name).to_owned() };
            let emphasis = if column == self.column { Modifier::BOLD } else { Modifier::empty() };
            side(column >= FIRST, title).style(Style::new().add_modifier(emphasis))
        });
        let shown = functions.iter().skip(self.first).take(self.page);
        let rows = shown.map(|flow| {
            let cells = flow.cells().into_iter().enumerate();
            Row::new(cells.map(|(column, text)| side(column >= FIRST, text)))
        });
        frame.render_widget(Table::new(rows, WIDTHS).header(head(header)), area);
    }
}

fn draw_lcores(frame: &mut Frame, area: Rect, load: &Load) {
    let header = LCORE_COLUMNS.iter().enumerate().map(|(column, name)| side(column > 0, (*name).to_owned()));
    let rows = load.lcores.iter().take(area.height.into()).map(|lcore| {
        let cells = lcore.cells().into_iter().enumerate();
        Row::new(cells.map(|(column, text)| side(column > 0, text)))
    });
    frame.render_widget(Table::new(rows, LCORE_WIDTHS).header(head(header)), area);
}

/// The names of columns, over their rows.
fn head<'a>(cells: impl Iterator<Item = Cell<'a>>) -> Row<'a> {
    Row::new(cells).style(Modifier::UNDERLINED)
}

/// Numbers stand to the right, names to the left.
fn side(is_number: bool, text: String) -> Cell<'static> {
    let line = Line::from(text);
    Cell::from(if is_number { line.right_aligned() } else { line })
}
