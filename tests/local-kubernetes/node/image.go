package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// imageRequest describes an image with one layer.
type imageRequest struct {
	// Where the archive goes.
	Output string `json:"output"`
	// Such as example.com/name:tag.
	Name        string   `json:"name"`
	Environment []string `json:"environment"`
	// What containers run that give arguments only.
	Entrypoint []string `json:"entrypoint"`
	Command    []string `json:"command"`
	// Absolute paths: files, links and whole directories of this machine. They have the same paths in the image.
	Paths []string `json:"paths"`
	// Patterns of names of files and directories that are left out, see filepath.Match.
	Excluded []string `json:"excluded"`
	// Small files by their absolute paths in the image.
	Texts map[string]string `json:"texts"`
	// Empty directories that everybody may write to.
	Scratch []string `json:"scratch"`
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

const mediaTypes = "application/vnd.oci.image."

// writeImage writes an archive in the OCI image layout, as `ctr images import` takes it.
func writeImage(input io.Reader) error {
	var request imageRequest
	if err := json.NewDecoder(input).Decode(&request); err != nil {
		return fmt.Errorf("reading the description of an image: %w", err)
	}
	layerFile, err := os.CreateTemp(filepath.Dir(request.Output), "layer-")
	if err != nil {
		return err
	}
	defer os.Remove(layerFile.Name())
	defer layerFile.Close()
	digest := sha256.New()
	if err := writeLayer(io.MultiWriter(layerFile, digest), &request); err != nil {
		return err
	}
	size, err := layerFile.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	layer := descriptor{mediaTypes + "layer.v1.tar", fmt.Sprintf("sha256:%x", digest.Sum(nil)), size, nil}
	config, configText, err := blob(mediaTypes+"config.v1+json", map[string]any{
		"architecture": runtime.GOARCH,
		"os":           runtime.GOOS,
		"config": map[string]any{
			"Env": request.Environment, "Entrypoint": request.Entrypoint, "Cmd": request.Command, "WorkingDir": "/",
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layer.Digest}},
	})
	if err != nil {
		return err
	}
	manifest, manifestText, err := blob(mediaTypes+"manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": mediaTypes + "manifest.v1+json", "config": config, "layers": []descriptor{layer},
	})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{"io.containerd.image.name": request.Name}
	_, index, err := blob(mediaTypes+"index.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": mediaTypes + "index.v1+json", "manifests": []descriptor{manifest},
	})
	if err != nil {
		return err
	}
	output, err := os.Create(request.Output)
	if err != nil {
		return err
	}
	defer output.Close()
	archive := tar.NewWriter(output)
	for name, text := range map[string][]byte{
		"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": index,
		blobPath(config): configText, blobPath(manifest): manifestText,
	} {
		if err := addFile(archive, name, 0o644, int64(len(text)), bytes.NewReader(text)); err != nil {
			return err
		}
	}
	if _, err := layerFile.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := addFile(archive, blobPath(layer), 0o644, size, layerFile); err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return output.Close()
}

func blob(mediaType string, content any) (descriptor, []byte, error) {
	text, err := json.Marshal(content)
	return descriptor{mediaType, fmt.Sprintf("sha256:%x", sha256.Sum256(text)), int64(len(text)), nil}, text, err
}

func blobPath(blob descriptor) string { return "blobs/" + strings.Replace(blob.Digest, ":", "/", 1) }

func addFile(archive *tar.Writer, name string, mode, size int64, content io.Reader) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(archive, content)
	return err
}

func writeLayer(output io.Writer, request *imageRequest) error {
	archive := tar.NewWriter(output)
	seen := map[string]bool{}
	for _, root := range request.Paths {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case request.excludes(entry.Name()) && entry.IsDir():
				return filepath.SkipDir
			case request.excludes(entry.Name()) || seen[path]:
				return nil
			}
			seen[path] = true
			return addPath(archive, path, entry)
		})
		if err != nil {
			return err
		}
	}
	for path, text := range request.Texts {
		if err := addFile(archive, relative(path), 0o644, int64(len(text)), strings.NewReader(text)); err != nil {
			return err
		}
	}
	for _, path := range request.Scratch {
		header := &tar.Header{Typeflag: tar.TypeDir, Name: relative(path) + "/", Mode: 0o1777}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
	}
	return archive.Close()
}

func (request *imageRequest) excludes(name string) bool {
	return slices.ContainsFunc(request.Excluded, func(pattern string) bool {
		matches, err := filepath.Match(pattern, name)
		return matches && err == nil
	})
}

// addPath adds a file, link or directory as root's. Times of change stay: Python compares them with its compiled files.
func addPath(archive *tar.Writer, path string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	header.Name, header.Uid, header.Gid, header.Uname, header.Gname = relative(path), 0, 0, "", ""
	if err := archive.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(archive, file)
	return err
}

func relative(path string) string { return strings.TrimPrefix(path, "/") }
