package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
)

// maxNames is how many names a package may export: what a reader has to learn
// before the first use.
const maxNames = 20

// Names gives the package-level names that files export, in alphabetical
// order. Methods and the constants of a type of the package (an enumeration)
// come with their type and don't count.
func Names(files []*ast.File) []string {
	types := map[string]bool{}
	for spec := range specs(files, token.TYPE) {
		types[spec.(*ast.TypeSpec).Name.Name] = true
	}
	var names []string
	add := func(id *ast.Ident) {
		if id.IsExported() {
			names = append(names, id.Name)
		}
	}
	for name := range types {
		add(ast.NewIdent(name))
	}
	for spec := range specs(files, token.VAR) {
		for _, id := range spec.(*ast.ValueSpec).Names {
			add(id)
		}
	}
	for _, id := range constants(files, types) {
		add(id)
	}
	for _, f := range files {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				add(fn.Name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// specs visits the declarations of one sort.
func specs(files []*ast.File, tok token.Token) func(func(ast.Spec) bool) {
	return func(yield func(ast.Spec) bool) {
		for _, f := range files {
			for _, d := range f.Decls {
				gen, ok := d.(*ast.GenDecl)
				if !ok || gen.Tok != tok {
					continue
				}
				for _, s := range gen.Specs {
					if !yield(s) {
						return
					}
				}
			}
		}
	}
}

// constants gives those that are not of a type of the package. A constant
// without type and value repeats the one before it (Go spec, "Iota").
func constants(files []*ast.File, types map[string]bool) []*ast.Ident {
	var out []*ast.Ident
	typed := false
	for spec := range specs(files, token.CONST) {
		v := spec.(*ast.ValueSpec)
		if v.Type != nil || len(v.Values) > 0 {
			id, ok := v.Type.(*ast.Ident)
			typed = ok && types[id.Name]
		}
		if !typed {
			out = append(out, v.Names...)
		}
	}
	return out
}

// exportedNames checks the budget of a package.
func exportedNames(p Package, files []*ast.File) []string {
	names := Names(files)
	if len(names) <= maxNames {
		return nil
	}
	return []string{fmt.Sprintf("%s exports %d names, %d are allowed: unexport, or split the package: %v",
		p.Path, len(names), maxNames, names)}
}

// Parse reads the files of a package.
func Parse(names []string) ([]*ast.File, *token.FileSet, error) {
	fset := token.NewFileSet()
	files := make([]*ast.File, len(names))
	for i, name := range names {
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, nil, fmt.Errorf("parse %s: %w", name, err)
		}
		files[i] = f
	}
	return files, fset, nil
}
