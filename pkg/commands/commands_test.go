package commands_test

import (
	"testing"

	"github.com/weftnet/weft/pkg/commands"
)

func TestNext(t *testing.T) {
	task := commands.Task{Do: commands.Command{Argv: []string{"add", "a"}}}
	other := commands.Task{Do: commands.Command{Argv: []string{"add", "b"}}}
	in := func(p commands.Phase) *commands.Record { return &commands.Record{Task: task, Phase: p} }
	for name, c := range map[string]struct {
		want   *commands.Task
		have   *commands.Record
		unsure bool
		step   commands.Step
	}{
		"nothing":                              {step: commands.Rest},
		"new":                                  {want: &task, step: commands.Do},
		"new, before the store has spoken":     {want: &task, unsure: true, step: commands.Do},
		"done":                                 {want: &task, have: in(commands.Done), step: commands.Rest},
		"done otherwise":                       {want: &other, have: in(commands.Done), step: commands.Undo},
		"done, and no longer wanted":           {have: in(commands.Done), step: commands.Undo},
		"done, and the store has not spoken":   {have: in(commands.Done), unsure: true, step: commands.Rest},
		"changed, and the store hasn't spoken": {want: &other, have: in(commands.Done), unsure: true, step: commands.Rest},
		"nobody saw the end":                   {want: &task, have: in(commands.Doing), step: commands.Undo},
		"nobody saw the end of its end":        {want: &task, have: in(commands.Undoing), step: commands.Undo},
	} {
		if have := commands.Next(c.want, c.have, !c.unsure); have != c.step {
			t.Errorf("%s: %s, want %s", name, have, c.step)
		}
	}
}

func TestCommandAsText(t *testing.T) {
	c := commands.Command{Argv: []string{"sh", "-c", "echo 'a b'", ""}}
	if want := `sh -c 'echo '\''a b'\''' ''`; c.String() != want {
		t.Errorf("%s, want %s", c, want)
	}
}
