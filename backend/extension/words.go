package extension

import (
	"fmt"
	"strings"
)

// needsShell are the characters that a shell would act on.
const needsShell = ";|&<>()`\n"

// words splits a command into its words and puts in the values of variables,
// which never make a word more. Quotes are those of sh: '…' is literal, in "…"
// $NAME counts, and a backslash takes the next character as it is.
func words(text string, vars map[string]string) ([]string, error) {
	s := splitter{rest: text, vars: vars}
	for s.rest != "" {
		if err := s.step(); err != nil {
			return nil, err
		}
	}
	if s.quote != 0 {
		return nil, fmt.Errorf("has no closing %c", s.quote)
	}
	s.end()
	if len(s.out) == 0 {
		return nil, fmt.Errorf("has no program in it")
	}
	return s.out, nil
}

type splitter struct {
	rest  string
	vars  map[string]string
	out   []string
	word  strings.Builder
	open  bool // a word has begun, though it may be empty
	quote byte // ' or ", or 0
}

func (s *splitter) end() {
	if s.open {
		s.out = append(s.out, s.word.String())
	}
	s.word.Reset()
	s.open = false
}

func (s *splitter) add(text string) {
	s.word.WriteString(text)
	s.open = true
}

// step takes the next character, escape or variable.
func (s *splitter) step() error {
	c := s.rest[0]
	switch {
	case s.quote == '\'' && c != '\'':
		s.add(s.rest[:1])
	case c == s.quote:
		s.quote = 0
	case s.quote == 0 && (c == '\'' || c == '"'):
		s.quote, s.open = c, true
	case c == '\\':
		if len(s.rest) == 1 {
			return fmt.Errorf(`ends in a backslash`)
		}
		s.add(s.rest[1:2])
		s.rest = s.rest[1:]
	case c == '$':
		return s.variable()
	case s.quote == 0 && (c == ' ' || c == '\t'):
		s.end()
	default:
		return s.plain(c)
	}
	s.rest = s.rest[1:]
	return nil
}

// plain takes a character that is itself, unless it would be more to a shell.
func (s *splitter) plain(c byte) error {
	if s.quote == 0 && strings.IndexByte(needsShell, c) >= 0 || c == '`' {
		return fmt.Errorf("has %q in it, which is for a shell: weft runs a program without one; write a script, "+
			"or say sh -c '…'", c)
	}
	s.add(s.rest[:1])
	s.rest = s.rest[1:]
	return nil
}

func (s *splitter) variable() error {
	name := s.rest[1:]
	braced := strings.HasPrefix(name, "{")
	name = strings.TrimPrefix(name, "{")
	after := strings.TrimLeft(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789")
	name = name[:len(name)-len(after)]
	if braced {
		var closed bool
		if after, closed = strings.CutPrefix(after, "}"); !closed {
			name = ""
		}
	}
	value, ok := s.vars[name]
	if !ok {
		return fmt.Errorf("has $%s in it, which it does not get: %s", name, given(s.vars))
	}
	s.add(value)
	s.rest = after
	return nil
}
