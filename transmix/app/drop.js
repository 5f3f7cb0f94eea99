// A field for one image: drop a file on it, or choose one. The file goes to the app on this computer, and nowhere else;
// one that is too large is not sent at all.
const field = element.querySelector('.tm-drop');
const chooser = element.querySelector('input');

async function give(file) {
  if (!file) return;
  if (file.size > LARGEST) {
    trigger('upload', { name: file.name, size: file.size });
    return;
  }
  field.classList.add('tm-busy');
  try {
    const { path } = await upload(file);
    trigger('upload', { path });
  } catch (error) {
    trigger('upload', { name: file.name, size: file.size });
  }
  field.classList.remove('tm-busy');
}

chooser.addEventListener('change', () => {
  give(chooser.files[0]);
  chooser.value = ''; // so that the same file can be chosen again
});
for (const kind of ['dragenter', 'dragover', 'dragleave', 'drop']) {
  field.addEventListener(kind, (event) => {
    event.preventDefault();
    field.classList.toggle('tm-over', kind === 'dragenter' || kind === 'dragover');
    if (kind === 'drop') give(event.dataTransfer.files[0]);
  });
}
element.querySelector('.tm-remove').addEventListener('click', () => trigger('clear'));
