package subnet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// object is a JSON object taken apart without losing what encoding/json hides:
// keys that nobody asked for, and keys that are there twice.
type object struct {
	keys   []string                   // as written, in order
	values map[string]json.RawMessage // by folded key; the last wins, null is absent
}

// parseObject takes an object apart. raw is valid JSON.
func parseObject(raw []byte) (object, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil {
		return object{}, err
	}
	out := object{values: map[string]json.RawMessage{}}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return object{}, err
		}
		key, _ := token.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return object{}, err
		}
		out.keys = append(out.keys, key)
		if kindOf(value) != "null" {
			out.values[fold(key)] = value
		}
	}
	return out, nil
}

// warnings tells of keys that are there more than once and, if known is not
// nil, of those that are not in it. path stands before each key.
func (o object) warnings(path string, known []string) []string {
	meant := make(map[string]string, len(known)) // folded → as documented
	for _, key := range known {
		meant[fold(key)] = key
	}
	var out []string
	first := make(map[string]string, len(o.keys))
	for _, key := range o.keys {
		folded := fold(key)
		if earlier, twice := first[folded]; twice {
			out = append(out, fmt.Sprintf("%s%s: is there again after %s%s; the last one counts",
				path, clip(key), path, clip(earlier)))
			continue
		}
		first[folded] = key
		if _, ok := meant[folded]; !ok && known != nil {
			out = append(out, fmt.Sprintf("%s%s: is not a key that weft knows, and has no effect; check its spelling",
				path, clip(key)))
		}
	}
	return out
}

// fold makes keys equal that encoding/json, and so flannel, holds for equal. By
// way of upper case, as two letters (U+017F, U+212A) fold only there.
func fold(key string) string { return strings.ToLower(strings.ToUpper(key)) }

// kindOf names the type of a JSON value for a message.
func kindOf(raw []byte) string {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	if len(raw) == 0 {
		return "nothing"
	}
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

// clip keeps what a stranger wrote from filling a message.
func clip(s string) string {
	const most = 60 // bytes
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
