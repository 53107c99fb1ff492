package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

func TestLevels(t *testing.T) {
	for name, c := range map[string]struct {
		level string
		want  string // the levels that are written
	}{
		"error": {"error", "error"},
		"warn":  {"warn", "error warning"},
		"info":  {"info", "error warning info"},
		"debug": {"debug", "error warning info debug"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			log, err := New(&out, Options{Level: c.level, JSON: true})
			if err != nil {
				t.Fatal(err)
			}
			log.Error("x")
			log.Warn("x")
			log.Info("x")
			log.Debug("x")
			var have []string
			for d := json.NewDecoder(&out); ; {
				var line struct{ Level string }
				if err := d.Decode(&line); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				have = append(have, line.Level)
			}
			if strings.Join(have, " ") != c.want {
				t.Errorf("want %q, have %q", c.want, have)
			}
		})
	}
}

func TestAnUnknownLevelNamesTheKnownOnes(t *testing.T) {
	for _, level := range []string{"", "verbose", "trace", "INFO"} {
		_, err := New(io.Discard, Options{Level: level})
		if err == nil || !strings.Contains(err.Error(), "use error, warn, info or debug") {
			t.Errorf("level %q: have %v", level, err)
		}
	}
}

func TestJSONHasTheFields(t *testing.T) {
	var out bytes.Buffer
	log, err := New(&out, Options{Level: "info", JSON: true})
	if err != nil {
		t.Fatal(err)
	}
	log.WithField("peer", "10.0.0.2").WithError(errors.New("boom")).Info("peer skipped")
	var have struct {
		Time                    time.Time
		Level, Msg, Peer, Error string
	}
	if err := json.Unmarshal(out.Bytes(), &have); err != nil {
		t.Fatal(err)
	}
	text := strings.Join([]string{have.Level, have.Msg, have.Peer, have.Error}, "|")
	if text != "info|peer skipped|10.0.0.2|boom" || have.Time.IsZero() {
		t.Errorf("have %s", out.Bytes())
	}
}

func TestTextInAPipe(t *testing.T) {
	var out bytes.Buffer
	log, err := New(&out, Options{Level: "info"})
	if err != nil {
		t.Fatal(err)
	}
	log.WithField("peer", "10.0.0.2").Warn("peer skipped")
	const date = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[^"]*`
	want := regexp.MustCompile(`^time="` + date + `" level=warning msg="peer skipped" peer=10.0.0.2\n$`)
	if !want.Match(out.Bytes()) {
		t.Errorf("have %q", out.String())
	}
}

// The journal adds the time itself and reads the priority.
func TestTextInTheJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", stat.Dev, stat.Ino))
	log, err := New(f, Options{Level: "debug"})
	if err != nil {
		t.Fatal(err)
	}
	log.Error("a")
	log.Warn("b")
	log.Info("c\nd")
	log.Debug("e")
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := "<3>level=error msg=a\n<4>level=warning msg=b\n<6>level=info msg=\"c\\nd\"\n<7>level=debug msg=e\n"
	if string(have) != want {
		t.Errorf("want %q\nhave %q", want, have)
	}
}

// $JOURNAL_STREAM is inherited by a shell whose user then redirects.
func TestARedirectedStreamIsNotTheJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for name, c := range map[string]struct {
		out    io.Writer
		stream string
	}{
		"another inode":     {f, "1:1"},
		"nothing said":      {f, ""},
		"garbage":           {f, "x"},
		"not even a stream": {&bytes.Buffer{}, "1:1"},
	} {
		if isJournal(c.out, c.stream) {
			t.Errorf("%s: taken for the journal", name)
		}
	}
}

func TestPrioritiesOfAllLevels(t *testing.T) {
	want := map[logrus.Level]int{
		logrus.PanicLevel: 2, logrus.FatalLevel: 2, logrus.ErrorLevel: 3, logrus.WarnLevel: 4,
		logrus.InfoLevel: 6, logrus.DebugLevel: 7, logrus.TraceLevel: 7,
	}
	for _, l := range logrus.AllLevels {
		if have := priority(l); have != want[l] {
			t.Errorf("%s: want %d, have %d", l, want[l], have)
		}
	}
}
