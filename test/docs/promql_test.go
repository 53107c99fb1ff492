package docs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// promql reads the part of PromQL that our rules and panels use, and nothing
// else: https://prometheus.io/docs/prometheus/latest/querying/basics/. A parser
// of all of it would bring a hundred modules along.
type promql struct {
	tokens  []string
	metrics []string // that are named
}

var promToken = regexp.MustCompile(`^(?:"[^"]*"|\$?[a-zA-Z_][a-zA-Z0-9_:]*|[0-9]+[smhd]|[0-9.]+|` +
	`=~|!~|!=|==|<=|>=|[-+*/<>=(){},\[\]])`)

// parsePromQL gives the metrics that an expression names.
func parsePromQL(text string) (metrics []string, err error) {
	var p promql
	for rest := strings.TrimSpace(text); rest != ""; rest = strings.TrimSpace(rest) {
		t := promToken.FindString(rest)
		if t == "" {
			return nil, fmt.Errorf("what is %q?", rest)
		}
		p.tokens, rest = append(p.tokens, t), rest[len(t):]
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	p.expression()
	if len(p.tokens) > 0 {
		return nil, fmt.Errorf("%q is too much", p.tokens)
	}
	return p.metrics, nil
}

func (p *promql) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

func (p *promql) take() string {
	t := p.peek()
	if t == "" {
		panic("it ends too early")
	}
	p.tokens = p.tokens[1:]
	return t
}

func (p *promql) want(t string) {
	if have := p.take(); have != t {
		panic(fmt.Sprintf("%q where %q is needed", have, t))
	}
}

func (p *promql) expression() {
	p.operand()
	for slices.Contains([]string{"+", "-", "*", "/", "<", ">", "==", "<=", ">=", "!=", "or", "and", "unless"}, p.peek()) {
		p.take()
		p.operand()
	}
}

func (p *promql) operand() {
	switch t := p.take(); {
	case t == "(":
		p.expression()
		p.want(")")
	case t[0] >= '0' && t[0] <= '9':
	case slices.Contains([]string{"sum", "min", "max", "count", "avg"}, t):
		if p.peek() == "by" {
			p.take()
			p.labels("(", ")", false)
		}
		p.want("(")
		p.expression()
		p.want(")")
	case t == "rate" || t == "increase":
		p.want("(")
		p.selector(p.take())
		p.want("[")
		if d := p.take(); d != "$__rate_interval" && !regexp.MustCompile(`^[0-9]+[smhd]$`).MatchString(d) {
			panic(fmt.Sprintf("%q is no duration", d))
		}
		p.want("]")
		p.want(")")
	case t == "histogram_quantile":
		p.want("(")
		p.operand()
		p.want(",")
		p.expression()
		p.want(")")
	case t == "vector":
		p.want("(")
		p.operand()
		p.want(")")
	case t == "time":
		p.want("(")
		p.want(")")
	default:
		p.selector(t)
	}
}

func (p *promql) selector(name string) {
	if !regexp.MustCompile(`^[a-z_]+$`).MatchString(name) {
		panic(fmt.Sprintf("%q is no metric", name))
	}
	p.metrics = append(p.metrics, name)
	if p.peek() == "{" {
		p.labels("{", "}", true)
	}
}

// labels reads names in brackets, or matchers.
func (p *promql) labels(open, end string, matchers bool) {
	p.want(open)
	for {
		if name := p.take(); !regexp.MustCompile(`^[a-z_]+$`).MatchString(name) {
			panic(fmt.Sprintf("%q is no label", name))
		}
		if matchers {
			op := p.take()
			if value := p.take(); !slices.Contains([]string{"=", "!=", "=~", "!~"}, op) || value[0] != '"' {
				panic(fmt.Sprintf("%q %q is no match", op, value))
			}
		}
		if p.peek() != "," {
			p.want(end)
			return
		}
		p.take()
	}
}

func TestPromQL(t *testing.T) {
	for text, fine := range map[string]bool{
		`weft_ready == 0`: true,
		`sum by (instance, field) (weft_peers_skipped) > 0`:                                          true,
		`histogram_quantile(0.99, sum by (le) (rate(weft_round_duration_seconds_bucket[5m]))) > 0.5`: true,
		`rate(weft_x_total{kind=~"a|b", device!="lo"}[$__rate_interval]) * 100`:                      true,
		`weft_lease_expires_timestamp_seconds - time() < 6 * 3600`:                                   true,
		`count(weft_ready == 0) or vector(0)`:                                                        true,
		`weft_ready ==`:                                                                              false,
		`weft_ready == 0)`:                                                                           false,
		`sum by instance (weft_ready)`:                                                               false,
		`rate(weft_x_total)`:                                                                         false,
		`rate(weft_x_total[5])`:                                                                      false,
		`weft_ready{kind}`:                                                                           false,
		`weft_ready{kind="a"`:                                                                        false,
		`Weft ready`:                                                                                 false,
		`weft_ready = 0`:                                                                             false,
		`histogram_quantile(0.99 weft_x)`:                                                            false,
		`sum(rate(weft_x_total[5m])) / § 3`:                                                          false,
		``:                                                                                           false,
	} {
		if _, err := parsePromQL(text); (err == nil) != fine {
			t.Errorf("%s: %v", text, err)
		}
	}
}
