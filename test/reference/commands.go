package reference

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Command is one command of weft's programs on a page.
type Command struct {
	Page  string // from the top of the tree
	Line  int    // of its text, or of the fence of its block
	Block bool   // it stands in a fenced block, else in the running text
	// Mark is what the comment above its block says: "example", or
	// "run: PACKAGE: TEST".
	Mark  string
	Text  string   // as a shell would have it, comments left out
	Words []string // the program and its arguments, quotes taken off
}

// Placeholder stands for something that a reader puts in.
const Placeholder = "…"

// Commands are those on all pages, but for those of the change log, in which
// commands may have gone since.
func Commands(t *testing.T) (out []Command) {
	t.Helper()
	top := filepath.Dir(documentation(t))
	pages, err := filepath.Glob(filepath.Join(top, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(top, "Documentation"), func(path string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(path, ".md") {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range pages {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name, err := filepath.Rel(top, path)
		if err != nil {
			t.Fatal(err)
		}
		if name != "CHANGELOG.md" {
			out = append(out, commandsOf(name, string(text))...)
		}
	}
	return out
}

func commandsOf(page, text string) (out []Command) {
	fence, mark, above := 0, "", ""
	var block []string
	for i, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```") && fence == 0:
			fence, mark, block = i+1, markOf(above), nil
		case strings.TrimSpace(line) == "```":
			for _, c := range blockCommands(block) {
				c.Page, c.Line, c.Mark, c.Block = page, fence, mark, true
				out = append(out, c)
			}
			fence = 0
		case fence > 0:
			block = append(block, line)
		default:
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(line, -1) {
				for _, c := range commandsIn(m[1]) {
					c.Page, c.Line = page, i+1
					out = append(out, c)
				}
			}
		}
		above = line
	}
	return out
}

func markOf(line string) string {
	m := regexp.MustCompile(`^\s*<!-- (example|run: .*) -->$`).FindStringSubmatch(line)
	if m == nil {
		return ""
	}
	return m[1]
}

// blockCommands joins lines that a backslash continues.
func blockCommands(lines []string) (out []Command) {
	whole := ""
	for _, line := range lines {
		if begun, ok := strings.CutSuffix(line, `\`); ok {
			whole += begun
			continue
		}
		out = append(out, commandsIn(whole+line)...)
		whole = ""
	}
	return out
}

// commandsIn finds weft's programs in a line for a shell, alone, after another
// command, or as what ssh or kubectl exec runs.
func commandsIn(line string) (out []Command) {
	var words []string
	end := func() {
		for len(words) > 0 && slices.Contains([]string{"ssh", "kubectl"}, words[0]) {
			i := slices.IndexFunc(words, isOurs)
			words = words[max(i, 0):]
			if i < 0 {
				words = nil
			}
		}
		if len(words) > 0 && isOurs(words[0]) && !sentence(words) {
			words[0] = filepath.Base(words[0])
			out = append(out, Command{Text: strings.TrimSpace(uncommented(line)), Words: words})
		}
		words = nil
	}
	// A word with its quotes, or what stands between two commands or redirects.
	tokens := regexp.MustCompile(`(?:[^\s'"|;&<>]|'[^']*'|"[^"]*")+|&&|\|\|?|;|[<>]+\s*\S*`)
	for _, w := range tokens.FindAllString(uncommented(line), -1) {
		switch w[0] {
		case '|', ';', '&':
			end()
		case '<', '>':
		default:
			words = append(words, regexp.MustCompile(`'([^']*)'|"([^"]*)"`).ReplaceAllString(w, "$1$2"))
		}
	}
	end()
	return out
}

func isOurs(word string) bool {
	return slices.Contains([]string{"weftctl", "weftd", "make", "bin/weftctl", "bin/weftd"}, word)
}

// sentence tells of words that only begin like a command: "weftd doesn't run".
func sentence(words []string) bool {
	return words[0] == "weftd" && (len(words) == 1 || !strings.HasPrefix(words[1], "-") && words[1] != Placeholder)
}

func uncommented(line string) string {
	if i := regexp.MustCompile(`(^|\s)#`).FindStringIndex(line); i != nil {
		return line[:i[0]]
	}
	return line
}
