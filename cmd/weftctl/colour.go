package main

import (
	"bytes"
	"io"
	"os"
	"regexp"
)

// colour is how a terminal is told of one (ECMA-48, SGR).
type colour string

const (
	green  colour = "\x1b[32m"
	yellow colour = "\x1b[33m"
	red    colour = "\x1b[31m"
	plain  colour = "\x1b[0m"
)

// rule colours what the first group of a pattern matches, in each line.
type rule struct {
	pattern string
	colour  colour
}

// coloured prints a table in colours where somebody looks who can see them. They
// come last, so that the table is as wide as what is seen.
func coloured(table func(io.Writer) error, rules []rule) func(io.Writer) error {
	return func(out io.Writer) error {
		if file, ok := out.(*os.File); !ok || !isTerminal(file) {
			return table(out)
		}
		var text bytes.Buffer
		if err := table(&text); err != nil {
			return err
		}
		_, err := out.Write(paint(text.Bytes(), rules))
		return err
	}
}

func paint(text []byte, rules []rule) []byte {
	for _, r := range rules {
		re := regexp.MustCompile("(?m)" + r.pattern)
		var out []byte
		at := 0
		for _, m := range re.FindAllSubmatchIndex(text, -1) {
			out = append(append(out, text[at:m[2]]...), r.colour...)
			out = append(append(out, text[m[2]:m[3]]...), plain...)
			at = m[3]
		}
		text = append(out, text[at:]...)
	}
	return text
}

// isTerminal tells whether somebody looks who can see colours, and wants to
// (https://no-color.org).
func isTerminal(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" && os.Getenv("NO_COLOR") == ""
}

func statusColours() []rule {
	return []rule{
		{`^Ready +(yes)$`, green},
		{`^Ready +(no)$`, red},
		{`^ +(away for .*)$`, red},
		{`^(Fight|Conflict|Refused|Left out|Malformed) `, red},
		{`^(Source) `, yellow},
	}
}

func peersColours() []rule {
	return []rule{
		{`% +(ok)$`, green},
		{`% +(lossy for .*)$`, yellow},
		{`% +((?:mtu|overlay-down|underlay-down|down) for .*)$`, red},
		{`^(left out): `, red},
	}
}

func doctorColours() []rule {
	return []rule{
		{`^(ok) `, green},
		{`^(WARN) `, yellow},
		{`^(FAIL) `, red},
	}
}
