package vxlan

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/weftnet/weft/test/reference"
)

func TestReference(t *testing.T) {
	defaults, _, err := ParseOptions(nil)
	if err != nil {
		t.Fatal(err)
	}
	v := reflect.ValueOf(defaults)
	var rows [][]string
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		sample := map[reflect.Kind]string{reflect.Int: "1234", reflect.Bool: "true"}[v.Field(i).Kind()]
		have, warnings, err := ParseOptions(fmt.Appendf(nil, `{%q: %s}`, name, sample))
		if got := fmt.Sprint(reflect.ValueOf(have).Field(i)); err != nil || len(warnings) > 0 || got != sample {
			t.Errorf("%s is no key of that name: %s, %v %v", name, got, warnings, err)
		}
		typ := map[reflect.Kind]string{reflect.Int: "number", reflect.Bool: "boolean"}[v.Field(i).Kind()]
		rows = append(rows, []string{reference.Code(name), typ, reference.Code(fmt.Sprint(v.Field(i)))})
	}
	reference.Block(t, "reference.md", "options of vxlan", reference.Table([]string{"key", "type", "default"}, rows))
}
