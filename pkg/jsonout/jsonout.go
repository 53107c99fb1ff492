// Package jsonout writes JSON without reflection. A process that lives for three
// milliseconds pays a tenth of one for the first value that encoding/json
// encodes, whatever it is; the CNI plugin writes two.
//
// It owns the text of strings (RFC 8259 section 7) and where commas go. It
// reads nothing: what others wrote is for encoding/json.
package jsonout

import (
	"strconv"
	"unicode/utf8"
)

// Object is a JSON object under construction, its members in the order in which
// they are added. The zero value is an empty one. Keys are names of ours, which
// need no escapes, and each is added once.
type Object struct{ b []byte }

// Raw adds a member whose value is JSON already.
func (o *Object) Raw(key string, value []byte) {
	separator := byte(',')
	if len(o.b) == 0 {
		separator = '{'
	}
	o.b = append(o.b, separator, '"')
	o.b = append(o.b, key...)
	o.b = append(o.b, '"', ':')
	o.b = append(o.b, value...)
}

// Text adds a string.
func (o *Object) Text(key, value string) { o.Raw(key, String(value)) }

// Number adds a number.
func (o *Object) Number(key string, value uint64) { o.Raw(key, strconv.AppendUint(nil, value, 10)) }

// True adds a member that is true.
func (o *Object) True(key string) { o.Raw(key, []byte("true")) }

// Bytes is the object so far, whole.
func (o *Object) Bytes() []byte {
	if len(o.b) == 0 {
		return []byte("{}")
	}
	return append(o.b[:len(o.b):len(o.b)], '}')
}

// List gives an array of what each item becomes.
func List[T any](items []T, text func(T) []byte) []byte {
	b := []byte{'['}
	for i, item := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, text(item)...)
	}
	return append(b, ']')
}

// String quotes a string. What is no UTF-8 becomes U+FFFD, as in encoding/json.
func String(s string) []byte {
	const hex = "0123456789abcdef"
	b := append(make([]byte, 0, len(s)+len(`""`)), '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ':
			b = append(b, `\u00`...)
			b = append(b, hex[r>>4], hex[r&0xf])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
