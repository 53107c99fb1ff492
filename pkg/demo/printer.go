package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Control sequences of a terminal (ECMA-48).
const (
	green = "\x1b[32m"
	red   = "\x1b[31m"
	bold  = "\x1b[1m"
	plain = "\x1b[0m"
	again = "\r\x1b[K" // to the line's begin, and clear it
)

// printer tells what happens: on a terminal by a line that changes when the
// step is done, elsewhere by one line when it is done. What can't be printed is
// lost: a demo doesn't stop because nobody looks.
type printer struct {
	out      io.Writer
	terminal bool
}

func (p *printer) line(format string, args ...any) {
	_, _ = fmt.Fprintf(p.out, format+"\n", args...)
}

// step runs one step and prints its title with the detail that it gives, or
// with its error, which it returns.
func (p *printer) step(title string, do func() (detail string, err error)) error {
	if p.terminal {
		_, _ = fmt.Fprintf(p.out, "· %s …", title)
	}
	detail, err := do()
	if p.terminal {
		_, _ = io.WriteString(p.out, again)
	}
	if errors.Is(err, context.Canceled) {
		p.mark(red, "✗", title, "interrupted")
		return err
	}
	if err != nil {
		p.mark(red, "✗", title, err.Error())
		return err
	}
	p.done(title, detail)
	return nil
}

// done prints a step that needs no waiting.
func (p *printer) done(title, detail string) { p.mark(green, "✓", title, detail) }

func (p *printer) mark(colour, mark, title, detail string) {
	if p.terminal {
		mark = colour + mark + plain
	}
	p.line("%s %s: %s", mark, title, detail)
}
