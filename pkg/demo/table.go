package demo

import (
	"strings"
	"unicode/utf8"
)

// cell is a field of a table.
type cell struct {
	text   string
	colour string // on a terminal; "" for none
}

// table is a head and rows of as many cells.
type table struct {
	head []string
	rows [][]cell
}

const gap = "  "

// render aligns the columns; colours, if wanted, don't count for the width.
func (t table) render(colours bool) string {
	width := make([]int, len(t.head))
	for i, h := range t.head {
		width[i] = utf8.RuneCountInString(h)
		for _, row := range t.rows {
			width[i] = max(width[i], utf8.RuneCountInString(row[i].text))
		}
	}
	head := make([]cell, len(t.head))
	for i, h := range t.head {
		head[i] = cell{text: h, colour: bold}
	}
	var out strings.Builder
	for _, row := range append([][]cell{head}, t.rows...) {
		var line strings.Builder
		for i, c := range row {
			if i > 0 {
				line.WriteString(gap)
			}
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c.text))
			if colours && c.colour != "" {
				c.text = c.colour + c.text + plain
			}
			line.WriteString(c.text + pad)
		}
		out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return out.String()
}
