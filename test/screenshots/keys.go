package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"time"

	"github.com/weftnet/weft/pkg/ui"
)

// tab is a page in a browser that is told what to do over a pipe: messages of
// JSON that end with a zero byte (--remote-debugging-pipe).
type tab struct {
	to      io.Writer
	from    *bufio.Reader
	last    int
	session string
}

// call asks and waits for the answer; what the browser tells besides is dropped.
func (t *tab) call(method string, params, result any) error {
	t.last++
	request := map[string]any{"id": t.last, "method": method, "params": params}
	if t.session != "" {
		request["sessionId"] = t.session
	}
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if _, err := t.to.Write(append(text, 0)); err != nil {
		return err
	}
	for {
		text, err := t.from.ReadBytes(0)
		if err != nil {
			return fmt.Errorf("%s: the browser has ended: %w", method, err)
		}
		var reply struct {
			ID     int
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if err := json.Unmarshal(bytes.TrimRight(text, "\x00"), &reply); err != nil {
			return err
		}
		switch {
		case reply.ID != t.last:
		case reply.Error != nil:
			return fmt.Errorf("%s: %s", method, reply.Error.Message)
		default:
			return json.Unmarshal(reply.Result, result)
		}
	}
}

// is tells whether an expression, or what it promises, is true in the page.
func (t *tab) is(expression string) (bool, error) {
	var out struct {
		Result           struct{ Value any }
		ExceptionDetails *struct{ Text string }
	}
	err := t.call("Runtime.evaluate", map[string]any{
		"expression": expression, "awaitPromise": true, "returnByValue": true,
	}, &out)
	if err == nil && out.ExceptionDetails != nil {
		err = fmt.Errorf("%s: %s", expression, out.ExceptionDetails.Text)
	}
	return out.Result.Value == true, err
}

func (t *tab) press(key string, code int) error {
	text := map[string]string{"Enter": "\r"}[key]
	for _, kind := range []string{"keyDown", "keyUp"} {
		event := map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
		if kind == "keyDown" && text != "" {
			event["text"] = text
		}
		if err := t.call("Input.dispatchKeyEvent", event, &struct{}{}); err != nil {
			return err
		}
	}
	return nil
}

// step is a key, or a text that is typed, and what then holds in the page.
type step struct {
	key  string
	code int // as Windows numbers keys; 0: key is a text
	then string
}

// steps are a walk through the page with 500 peers, of which the third is ill.
func steps() []step {
	const at = `document.activeElement.dataset.id.startsWith("10.42.%d.")`
	return []step{
		{"Tab", 9, `document.activeElement.matches(".skip")`},
		{"Tab", 9, `document.activeElement.id == "theme"`},
		{"Enter", 13, `document.documentElement.dataset.theme == "light"`},
		{"Enter", 13, `document.documentElement.dataset.theme == "dark"`},
		{"Enter", 13, `!document.documentElement.dataset.theme`},
		{"Tab", 9, fmt.Sprintf(at, 2)},
		{"ArrowRight", 39, fmt.Sprintf(at, 3)},
		{"ArrowRight", 39, fmt.Sprintf(at, 4)},
		{"ArrowLeft", 37, fmt.Sprintf(at, 3)},
		{"ArrowDown", 40, `!` + fmt.Sprintf(at, 3)},
		{"ArrowUp", 38, fmt.Sprintf(at, 3)},
		{"End", 35, `document.activeElement == document.querySelector(".cell:last-child")`},
		{"Home", 36, fmt.Sprintf(at, 2)},
		{"ArrowRight", 39, fmt.Sprintf(at, 3)},
		{"ArrowRight", 39, fmt.Sprintf(at, 4)},
		{"Enter", 13, `$("node").textContent.includes("192.0.2.4") && document.activeElement.ariaPressed == "true"`},
		// The next answers change nothing of that.
		{"Shift", 16, `refresh().then(() => document.activeElement.ariaPressed == "true")`},
		// Nor does weftd's going away and coming again tell any event twice.
		{"Shift", 16, `(async () => {
			await running;
			const was = ask, before = $("events").children.length;
			ask = async () => { throw new Error("gone"); };
			await refresh();
			const gone = $("pill").textContent == "weftd doesn't answer" && !$("notices").hidden;
			ask = was;
			await refresh();
			return gone && $("pill").textContent == "ready" && before == 7 && $("events").children.length == 7;
		})()`},
		{"Tab", 9, `document.activeElement.id == "filter"`},
		{"10.42.7.", 0, `$("rows").children.length == 2 && $("count").textContent == "1 of 500" &&
			document.querySelectorAll(".cell:not(.dim)").length == 1`},
		{"Tab", 9, `document.activeElement.dataset.state == "underlay-down"`},
		{"Enter", 13, `!$("none").hidden && document.activeElement.ariaPressed == "true"`},
	}
}

// walk uses the page by keys alone, and takes a picture of where that leads.
func walk(ctx context.Context, profile, file string) error {
	handler, err := ui.Handler(overlay(500))
	if err != nil {
		return err
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	t, end, err := open(ctx, profile, server.URL)
	if err != nil {
		return err
	}
	defer end()
	for loaded := false; !loaded; {
		if loaded, err = t.is(`document.querySelectorAll(".cell").length == 500`); err != nil {
			return err
		}
	}
	for i, s := range steps() {
		if s.code == 0 {
			err = t.call("Input.insertText", map[string]any{"text": s.key}, &struct{}{})
		} else {
			err = t.press(s.key, s.code)
		}
		if err != nil {
			return err
		}
		ok, err := t.is(s.then)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("step %d, after %s: it is not so that %s", i+1, s.key, s.then)
		}
	}
	var picture struct{ Data []byte }
	if err := t.call("Page.captureScreenshot", struct{}{}, &picture); err != nil {
		return err
	}
	return os.WriteFile(file, picture.Data, 0o600)
}

// open starts a browser with the page, to be ended.
func open(ctx context.Context, profile, url string) (t *tab, end func(), err error) {
	theirs, to, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	from, theirsToo, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
		"--window-size=1440,1400", "--user-data-dir="+profile, "--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{theirs, theirsToo}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	_, _ = theirs.Close(), theirsToo.Close()
	t = &tab{to: to, from: bufio.NewReader(from)}
	end = func() {
		t.session = ""
		_ = t.call("Browser.close", struct{}{}, &struct{}{}) // else ctx ends it
		_, _, _ = cmd.Wait(), to.Close(), from.Close()
	}
	var target struct{ TargetID string }
	if err = t.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target); err == nil {
		var attached struct{ SessionID string }
		err = t.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
		t.session = attached.SessionID
	}
	if err == nil {
		err = t.call("Page.navigate", map[string]any{"url": url}, &struct{}{})
	}
	if err == nil {
		err = t.call("Page.bringToFront", struct{}{}, &struct{}{})
	}
	if err != nil {
		end()
		return nil, nil, err
	}
	return t, end, nil
}
