"""The Space: the page of `lml app`, for visitors who are strangers.

They choose among the models that come with the package and name no others, since a name could be a folder of this
machine or a pipeline that fills its disk. Offer yours with `Offer(models=("embedded", "owner/name"), device="cuda")`.
"""

from lmlangevin.app.server import serve
from lmlangevin.app.settings import Offer

if __name__ == "__main__":
    # A Space says by GRADIO_SERVER_NAME and GRADIO_SERVER_PORT where it wants to be served.
    serve(Offer(any_model=False, max_images=256, max_seconds=300), host=None, port=None)
